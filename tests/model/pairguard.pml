/* Two guards, their DRBD, an arbiter, a network that does anything, people: DESIGN.md section 4 as one transition system.
 *
 * One process takes one atomic step at a time. A message is a slot that stays until it is overwritten or dead: it can be
 * late, lost, repeated and overtaken by any other. A slot is emptied only when nothing could follow from it any more.
 * Every limit of time is a choice: whatever may end by a timer may end at any moment, or never.
 *
 * Features: WITH_GATES WITH_YIELD WITH_ANNOUNCED WITH_PERSON WITH_HOLD; wrong models: MUT_*; TRACE prints.
 */

#include "arbiter.pml"

/* BOUNDED: at most FAULTS faults and CLAIM_MAX claims on one path; else both are without limit. */
#ifdef BOUNDED
#ifndef FAULTS
#define FAULTS 3
#endif
#ifndef CLAIM_MAX
#define CLAIM_MAX 3
#endif
byte luck = FAULTS;
byte tries = CLAIM_MAX;
#define LUCKY (luck > 0)
#define TRIES (tries > 0)
#define spend() luck = luck - 1
#define try() tries = tries - 1
#elif defined(TRACE)
/* In a random walk faults are rare, or nothing would ever come to its end. */
byte luck;
#define LUCKY (luck == RARE)
#define TRIES 1
#define spend() luck = 0
#define try() skip
#else
#define LUCKY 1
#define TRIES 1
#define spend() skip
#define try() skip
#endif

#ifdef TRACE
#ifndef RARE
#define RARE 6
#endif
#define EV printf
#else
#define EV(...) skip
#endif

#define BROKEN(law) assert(!law)

/* ---- a node: what its disk keeps */
bit cont[2] = 1;    /* own disk never left UpToDate since the attested session (E3) */
bit used[2];        /* a win was used in this era, journaled before the use */
byte intent[2];     /* 0 none, 1 written, 2 spawned and not drained */
byte pn[2];         /* promise to the other's claim of this nonce; 0 = none */
bit pc[2];          /* ... of the present era */
bit braked[2];         /* braked: neither claims nor shoots */
bit own[2];         /* its own sign of network change stands */
bit sg[2];          /* it was Primary in the attested session */
byte kept[2];       /* MUT_NORENOUNCE: the right as the disk has it */

/* ---- a guard: what a restart forgets */
byte view[2] = UNREAD;
bit gera[2];        /* its era is the present one */
byte att[2];        /* claim under way: purpose */
byte an[2];
bit ast[2];         /* committed */
bit arel[2];        /* a releasing claim */
byte right[2];
byte closing[2];    /* 1 asked, 2 answered and sent */
byte vinh[2];       /* the arbiter's inhibits as read last */

/* ---- the node itself and replication */
bit on[2] = 1;
bit prim[2];
bit alone[2];       /* DRBD was let go on: 4 or 7 */
bit thawed[2];        /* thawed by nobody's leave */
bit div[2];         /* has an acknowledged write that the other lacks */
bit bad[2];         /* own disk not current: being resynced ... */
bit out[2];         /* ... or detached */
bit conn = 1;
bit see[2] = 1;     /* each end's belief about the connection */
bit fly[2];         /* a shot of node i may still act */
bit fcur[2];        /* ... of the present era */
bit dead[2];        /* shot, and not connected since */
bit fenced[2];      /* in this era, by a guard */

/* ---- messages */
byte cln[2]; byte clp[2]; bit cly[2], clc[2], cls[2], clr[2], clrel[2];
byte askn[2]; bit asky[2];
byte ansn[2]; byte ansv[2]; bit anstp[2], anstn[2], anstb[2];
byte ofn[2]; byte ofw[2];
byte cmn[2]; byte cmp[2];
byte wnn[2]; byte wnp[2]; bit wnl[2];
bit ka[2], kb[2], clo[2], hb[2];

/* ---- people, changes, holds */
byte pcert = NONE;  /* the node certified off */
bit pers;
bit chg;            /* a change is open */
#ifdef WITH_HOLD
#define NOTE_LIVE(i) wnl[i] = (gans[i] == LIVE)
#define SITS(i) sat = i
#else
#define NOTE_LIVE(i) skip
#define SITS(i) skip
#endif
#ifdef WITH_HOLD
#define PRIMARY_NOW (prim[0] -> 0 : (prim[1] -> 1 : NONE))
#else
#define PRIMARY_NOW NONE /* who was Primary matters to holds alone */
#endif
#define SPREAD_S3 ((alone[0] && (ACKS(1) || right[1] == ALONE)) || (alone[1] && (ACKS(0) || right[0] == ALONE)))
bit stm[2];         /* at the arbiter: node i knows this hold and has no right to fence, no claim, no shot */
bit kin[2];         /* node i has read this very inhibit */
byte sat;           /* truth for S5: who was Primary when replication stood last */
bit held;           /* truth for S5: somebody has read `held` */
byte gw = NONE;     /* truth: who won the open era, while the arbiter's memory is lost */
#define WON(i) (rw == i || (lost && gw == i))

#define SUSP(i) (pn[i] != 0 && !M(MUT_NOSUSPEND))
#define WHOLE (conn && see[0] && see[1] && on[0] && on[1] && !div[0] && !div[1] && !bad[0] && !bad[1])
#define ACKS(i) (on[i] && prim[i] && !conn && !SUSP(i) && (alone[i] || !gate[i] || thawed[i]))

/* ================================================================ laws, after every step */

bit S3_both_let_go_on = 1, S3_two_rights = 1, S3_the_other_writes_too = 1;
bit S1_both_fenced = 1, S2_only_copy_fenced = 1, S2_only_copy_left_behind = 1, S4_shot_outside_its_era = 1,
    S4_closed_over_a_shot = 1, S4_closed_over_a_dead_loser = 1, S4_closed_over_a_right = 1, S5_fired_while_held = 1,
    S5_promoted_while_held = 1, S5_let_go_by_no_evidence = 1, S6_lost_memory_believed = 1, S6_two_shots_one_intent = 1;

/* ================================================================ what happens to a node */

inline k_end(i) {
  closing[i] = 0; cvf[i] = 0;
  if :: !M(MUT_CLOSENONCE) -> ka[i] = 0; kb[i] = 0 :: else fi
}
inline end_attempt(i) { att[i] = 0; an[i] = 0; ast[i] = 0; arel[i] = 0 }
inline forget(i) {
  view[i] = UNREAD; vf[i] = 0; right[i] = 0; vinh[i] = 0;
  end_attempt(i); k_end(i);
  if :: intent[i] == 1 -> intent[i] = 0 :: else fi
}
inline notice() {
#ifdef QUICK
  see[0] = 0; see[1] = 0; k_end(0); k_end(1)
#else
  skip
#endif
}
inline down(i) {
  forget(i);
  on[i] = 0; prim[i] = 0; alone[i] = 0; thawed[i] = 0; conn = 0; see[i] = 0; sg[i] = 0; kept[i] = 0; notice()
}
inline restart(i) {
  forget(i);
  if
  :: M(MUT_NOINTENT) -> intent[i] = 0
  :: M(MUT_USEDVOLATILE) -> used[i] = 0
  :: M(MUT_YIELDVOLATILE) -> pn[i] = 0; pc[i] = 0
  :: M(MUT_NORENOUNCE) -> right[i] = kept[i]
  :: else
  fi
}
inline new_era(keeps) {
  a_end(keeps); fcur[0] = 0; fcur[1] = 0; pc[0] = 0; pc[1] = 0; gera[0] = 0; gera[1] = 0; fenced[0] = 0; fenced[1] = 0
}
inline word(i) { if :: pcert == i && !M(MUT_CERTWORD) -> pcert = NONE; pers = 0; pf = 0 :: else fi }

/* Slots from which nothing can follow any more. LATE keeps those that can only bind their target by a promise. */
inline done(i) {
  if :: wnn[i] != 0 && (wnn[i] != an[i] || !ast[i]) && !M(MUT_NONONCE) -> wnn[i] = 0 :: else fi;
  if :: wnn[i] == 0 -> wnp[i] = 0; wnl[i] = 0 :: else fi;
  if :: ofn[i] != 0 && (ofn[i] != an[i] || ast[i]) -> ofn[i] = 0 :: else fi;
  if :: ofn[i] == 0 -> off[i] = 0; ofw[i] = 0 :: else fi;
  if :: cmn[i] != 0 && (!CURRENT(cmf[i]) || (cmn[i] != gn[i] && cmn[i] != cln[i])) -> cmn[i] = 0 :: else fi;
  if :: cmn[i] == 0 -> cmf[i] = 0; cmp[i] = 0 :: else fi;
#ifndef LATE
  if :: cln[i] != 0 && cln[i] != an[i] && cln[i] != cmn[i] -> cln[i] = 0 :: else fi;
  if :: askn[i] != 0 && askn[i] != gn[i] -> askn[i] = 0 :: else fi;
  if :: ansn[i] != 0 && (ansn[i] != gn[i] || goff[i]) -> ansn[i] = 0 :: else fi;
#endif
  if :: cln[i] == 0 -> clp[i] = 0; cly[i] = 0; clc[i] = 0; cls[i] = 0; clr[i] = 0; clrel[i] = 0 :: else fi;
  if :: askn[i] == 0 -> asky[i] = 0 :: else fi;
  if :: ansn[i] == 0 -> ansv[i] = 0; anstp[i] = 0; anstn[i] = 0; anstb[i] = 0 :: else fi;
  if :: clo[i] && (!CURRENT(clf[i]) || rw != i) -> clo[i] = 0; clf[i] = 0 :: else fi;
  if :: hb[i] && (!CURRENT(hbf[i]) || rw != i) -> hb[i] = 0; hbf[i] = 0 :: else fi;
  if :: refd[i] != 0 -> keep_refused(i, 1); keep_refused(i, 2) :: else fi
}
#define REFERS(i,n) (an[i] == n || cln[i] == n || gn[i] == n || askn[i] == n || ansn[i] == n || ofn[i] == n || \
  cmn[i] == n || wnn[i] == n || pn[1-(i)] == n)
inline keep_refused(i, n) { if :: !REFERS(i, n) -> refd[i] = refd[i] & (7 - (1 << (n))) :: else fi }

/* ================================================================ one guard; `i` acts, `j` is its peer */

#define E1(i) (!bad[i])
#ifdef WITH_HOLD
#define STANDS(what) (what == I_NETWORK || what == I_PERSON)
#define BRAKED(i) ((braked[i] || vinh[i] != I_NONE) && !(M(MUT_BRAKEREC) && view[i] == i))
#define GSPARED(i) (sg[i] || M(MUT_SITANY))
#define GPERSON(i) (!M(MUT_SITPERSON) && (vinh[i] == I_PERSON || (vinh[i] == I_PERSON_OVER && !quiet)))
#define GFORBIDS(i,p,rel) ((p == FENCE && BRAKED(i)) || (p == ALONE && (GPERSON(i) || \
  ((own[i] || vinh[i] == I_NETWORK || (vinh[i] == I_NETWORK_OVER && !quiet)) && !GSPARED(i)) || \
  (braked[i] && !prim[i] && !GSPARED(i) && !(rel)))))
#define STALE_HOLD(i) ((conn && see[i] && attv && sg[i] != prim[i]) || vinh[i] != inh || (inh != I_NONE && !kin[i]))
#else
#define BRAKED(i) 0
#define GFORBIDS(i,p,rel) 0
#define STALE_HOLD(i) 0
#endif
#define FREE(i,j) (view[i] != UNREAD && (view[i] != j || M(MUT_REWIN)) && pn[i] == 0 && closing[i] == 0 && E1(i) && (!lost || M(MUT_AMNESIA)))
#define CLAIMS(i,j) (on[i] && att[i] == 0 && right[i] == 0 && !see[i] && intent[i] != 1 && FREE(i,j) && NONCE_LEFT(i) && TRIES)

inline pick_nonce(i) {
  if
  :: !REFERS(i, 1) -> an[i] = 1
  :: REFERS(i, 1) && !REFERS(i, 2) -> an[i] = 2
#if NN > 2
  :: REFERS(i, 1) && REFERS(i, 2) && !REFERS(i, 3) -> an[i] = 3
#endif
  fi;
  refd[i] = refd[i] & (7 - (1 << an[i]))
}
#if NN > 2
#define NONCE_LEFT(i) (!REFERS(i, 1) || !REFERS(i, 2) || !REFERS(i, 3))
#else
#define NONCE_LEFT(i) (!REFERS(i, 1) || !REFERS(i, 2))
#endif

inline say_claim(i, p, y, rel) {
  try();
  att[i] = p; ast[i] = 0; arel[i] = rel; pick_nonce(i);
  EV("say-claim %d %d\n", i, an[i]);
  cln[i] = an[i]; clp[i] = p; cly[i] = y; clc[i] = cont[i]; cls[i] = 1; clr[i] = prim[i]; clrel[i] = rel;
#ifdef QUICK
  if
  :: CLAIMABLE(i, 1 - i, cln[i], clp[i], cly[i]) -> hear_claim(i); cln[i] = 0
  :: else -> word(i); cln[i] = 0; end_attempt(i)
  fi
#endif
}
inline hear_claim(i) {
  a_claim(i, cln[i], clp[i], cly[i], clc[i], cls[i], clr[i], clrel[i]);
  EV("claim %d %d %d %d %d %d 1\n", i, cln[i], clp[i], cly[i], clc[i], clr[i]);
  askn[i] = cln[i]; asky[i] = cly[i]; word(i)
}
inline hear_answer(i, j) {
  EV("answer %d %d %d %d %d\n", i, ansv[i], anstp[i], anstn[i], anstb[i]);
  a_answer(i, ansv[i], anstp[i], anstn[i], anstb[i]); word(j);
#ifndef LATE
  ansn[i] = 0
#endif
}

/* DRBD goes on without its peer. */
inline go_on(i, j) {
#ifdef WITH_HOLD
  if :: held && !prim[i] && sat != i -> BROKEN(S5_promoted_while_held) :: else fi;
#endif
  if :: div[j] -> BROKEN(S2_only_copy_left_behind) :: else fi;
  used[i] = 1; alone[i] = 1; prim[i] = 1
}

inline no_fence(i) { if :: right[i] == FENCE && !M(MUT_BRAKEREC) -> right[i] = 0 :: else fi }

inline read_register(i) {
  view[i] = rw; vf[i] = 1;
  if
  :: !gera[i] ->
     gera[i] = 1; used[i] = 0; right[i] = 0; kept[i] = 0; k_end(i);
     if :: intent[i] == 1 -> intent[i] = 0 :: else fi
  :: else fi;
#ifdef WITH_HOLD
  if :: conn && see[i] && attv -> sg[i] = prim[i] :: else fi;
  vinh[i] = inh; kin[i] = (inh != I_NONE);
  if :: inh != I_NONE -> braked[i] = 1; no_fence(i) :: else fi;
#endif
  word(i)
}

inline won(i, j) {
#ifdef WITH_HOLD
  /* as in the code: used in the very step that brings it, or by nobody */
  if
  :: arel[i] ->
     if
     :: (!wnl[i] || M(MUT_RELLIVE)) && ((!own[i] && !STANDS(vinh[i])) || M(MUT_RELLATE) || M(MUT_RELEARLY)) &&
          (!STANDS(inh) || M(MUT_RELEARLY)) -> lift(i, !wnl[i]) /* the arbiter lifts nothing that stands */
     :: else
     fi
  :: !arel[i] && att[i] == ALONE -> if :: !see[i] && !SUSP(i) -> go_on(i, j) :: else fi
  :: !arel[i] && att[i] == FENCE -> right[i] = FENCE
  fi
#else
  right[i] = att[i];
  if :: M(MUT_NORENOUNCE) -> kept[i] = att[i] :: else fi
#endif
}

inline give_yield(i, j) {
#ifdef WITH_YIELD
  if
  :: asky[j] && pn[i] == 0 && intent[i] == 0 && view[i] != UNREAD &&
       att[i] == 0 && right[i] == 0 && !alone[i] && view[i] != i ->
     pn[i] = askn[j]; pc[i] = 1; ansv[j] = YIELDED
  :: asky[j] && pn[i] == askn[j] -> ansv[j] = YIELDED
  :: asky[j] && pn[i] != 0 && pn[i] != askn[j] && pc[i] && view[i] == j -> pn[i] = askn[j]; ansv[j] = YIELDED
  :: else
  fi
#else
  skip
#endif
}

inline heard_claim(i) {
#ifdef LATE
  skip
#else
  cln[i] = 0
#endif
}

#ifdef WITH_ANNOUNCED
#define ANNOUNCES(i,j) (chg && WHOLE && prim[i] && FREE(i,j) && vf[i] && right[i] == 0 && att[i] == 0 && intent[i] == 0 && \
  (rw == NONE || (rw == i && rbas == B_ANNOUNCED)) && (gate[j] || M(MUT_ANNGATE)))
inline announce(i) { rw = i; rbas = B_ANNOUNCED; ruA = 1; ruF = 0; bump(); used[i] = 1 }
#endif

inline unyield(i) {
  pn[i] = 0; pc[i] = 0;
  if :: prim[i] && !conn -> thawed[i] = 1 :: else fi
}
inline give_up(j) { if :: div[j] || ruA -> div[j] = 0; bad[j] = 1; cont[j] = 0 :: else fi }

#ifdef WITH_HOLD
#define STATES(i) (braked[i] && right[i] != FENCE && att[i] != FENCE && intent[i] == 0)
inline set_inhibit(what) {
  if
  :: inh == I_NONE || inh == I_NETWORK_OVER || inh == I_PERSON_OVER ->
     if :: !M(MUT_OLDWORD) -> stm[0] = 0; stm[1] = 0 :: else fi;
     kin[0] = 0; kin[1] = 0
  :: else fi;
  inh = what
}
inline lift(i, fair) {
  if :: !fair || own[i] || STANDS(inh) -> BROKEN(S5_let_go_by_no_evidence) :: else fi;
  if :: inh != I_NONE -> EV("inhibit 0\n") :: else fi;
  inh = I_NONE; braked[i] = 0; vinh[i] = I_NONE; held = 0; own[i] = 0; kin[0] = 0; kin[1] = 0;
  if :: !M(MUT_OLDWORD) -> stm[0] = 0; stm[1] = 0 :: else fi
}
#endif

init {
  d_step { CHOOSE_MUTANT; prim[0] = 1; gate[0] = 1; gate[1] = 1 }
#ifdef WITH_GATES
  if :: gate[0] = 0 :: gate[1] = 0 :: gate[0] = 0; gate[1] = 0 fi;
#endif
  EV("gates %d %d\n", gate[0], gate[1]);
end:
  do
#define i 0
#define j 1
#include "guard.pml"
#undef i
#undef j
#define i 1
#define j 0
#include "guard.pml"
#undef i
#undef j

  /* ---- replication breaks and comes back */
  :: d_step { conn && LUCKY -> spend(); conn = 0; notice() }
  :: d_step { !conn && !see[0] && !see[1] && on[0] && on[1] && !(div[0] && div[1]) && !(prim[0] && prim[1]) &&
       !(div[0] && prim[1]) && !(div[1] && prim[0]) &&
       (gate[0] || view[0] != UNREAD) && (gate[1] || view[1] != UNREAD) ->
     conn = 1; see[0] = 1; see[1] = 1; alone[0] = 0; alone[1] = 0; thawed[0] = 0; thawed[1] = 0; dead[0] = 0; dead[1] = 0;
     if :: right[0] == ALONE -> right[0] = 0; kept[0] = 0 :: else fi;
     if :: right[1] == ALONE -> right[1] = 0; kept[1] = 0 :: else fi;
     if :: att[0] == ALONE && !M(MUT_CLAIMCONN) -> end_attempt(0) :: else fi;
     if :: att[1] == ALONE && !M(MUT_CLAIMCONN) -> end_attempt(1) :: else fi;
     if :: prim[0] -> SITS(0) :: prim[1] -> SITS(1) :: else fi;
     if :: !M(MUT_OLDROLE) -> sg[0] = sg[0] && prim[0]; sg[1] = sg[1] && prim[1] :: else fi;
     if :: div[0] -> bad[1] = 1; cont[1] = 0 :: else fi;
     if :: div[1] -> bad[0] = 1; cont[0] = 0 :: else fi;
     if :: M(MUT_RESUMERECONNECT) -> pn[0] = 0; pn[1] = 0; pc[0] = 0; pc[1] = 0 :: else fi;
     done(0); done(1) }
  :: d_step { WHOLE && (!attv || !cont[0] || !cont[1] || atp != PRIMARY_NOW) && !lost ->
     attv = 1; gse[0] = 0; gse[1] = 0; cls[0] = 0; cls[1] = 0; cont[0] = 1; cont[1] = 1; atp = PRIMARY_NOW;
     EV("attest %d\n", (prim[0] -> 0 : (prim[1] -> 1 : NONE))) }

  /* ---- the arbiter restarts; loses its store; a person makes a new register */
  :: d_step { (gn[0] != 0 || gn[1] != 0) && LUCKY -> spend(); a_restart(); EV("restart\n"); done(0); done(1) }
  :: d_step { rw != NONE && M(MUT_WONFIRST) && LUCKY -> spend(); new_era(1); done(0); done(1) }
#ifdef WITH_LOSS
  :: d_step { !lost && LUCKY -> spend(); lost = 1; gw = rw;
     rw = NONE; rbas = 0; ruA = 0; ruF = 0; attv = M(MUT_AMNESIA); atp = NONE; a_restart(); bump(); done(0); done(1) }
  :: d_step { lost && WHOLE && ((att[0] == 0 && att[1] == 0 && right[0] == 0 && right[1] == 0 &&
       intent[0] == 0 && intent[1] == 0) || M(MUT_INITDRAIN)) ->
     lost = 0; gw = NONE; new_era(0); k_end(0); k_end(1); view[0] = UNREAD; view[1] = UNREAD;
     end_attempt(0); end_attempt(1); done(0); done(1) }
#endif
#ifdef WITH_ANNOUNCED
  :: d_step { WHOLE && !chg && rw == NONE -> chg = 1 }
  :: d_step { chg -> chg = 0 }
#endif
#ifdef WITH_PERSON
  :: d_step { pers && LUCKY -> spend(); pers = 0; pf = 0; pcert = NONE }
#endif
#ifdef WITH_HOLD
#ifndef NO_SIGNS
  :: d_step { (inh == I_NONE || inh == I_NETWORK) && on[0] && LUCKY -> spend(); set_inhibit(I_PERSON); EV("inhibit 2\n");
     vinh[0] = I_PERSON; kin[0] = 1; braked[0] = 1; no_fence(0) } /* at node 0, which knows it first */
#endif
  :: d_step { inh == I_PERSON -> inh = I_PERSON_OVER; EV("inhibit 4\n") }
  :: d_step { !quiet -> quiet = 1; EV("quiet 1\n") }
  :: d_step { palive && LUCKY -> spend(); palive = 0; EV("together\n") } /* one membership, or unheard for long */
#endif

#ifdef TRACE
  :: d_step { luck < RARE -> luck = luck + 1 }
#endif

  /* ---- S3, in every state */
  :: d_step { alone[0] && alone[1] -> BROKEN(S3_both_let_go_on) }
  :: d_step { right[0] == ALONE && right[1] == ALONE -> BROKEN(S3_two_rights) }
  :: d_step { SPREAD_S3 -> BROKEN(S3_the_other_writes_too) }
  od
}
