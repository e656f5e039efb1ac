/* The arbiter's side of the protocol: register, gatherings, verdict, inhibits. Shared by pairguard.pml and by replays.
 *
 * A version, an era or a session is only ever compared with the present one, and a past one never comes back. So a
 * message carries one bit instead, "is of the present version", which every change of the register clears. That is
 * exact, and it makes attempts, versions and eras unbounded.
 */

#include "mutants.pml"

#define NONE 2     /* no node; nodes are 0 and 1 */
#define UNREAD 3   /* a guard that has not read the register since its start */
#define FENCE 1
#define ALONE 2
#define STANDING 3 /* right of an announced win: for every disconnection until the close */
#define SILENT 0   /* what the arbiter has of the target: no answer */
#define LIVE 1
#define YIELDED 2
#define B_VERDICT 0
#define B_YIELD 1
#define B_ANNOUNCED 2
#define B_PERSON 3
#define I_NONE 0   /* the inhibits of the pair, taken together */
#define I_NETWORK 1
#define I_PERSON 2
#define I_NETWORK_OVER 3
#define I_PERSON_OVER 4

#ifndef NN
#define NN 2       /* names for nonces of one candidate; a name is used anew once nothing refers to it */
#endif

/* durable: the register, the attested session, inhibits, closed nonces */
byte rw = NONE;
byte rbas;
bit ruA, ruF;      /* used: for alone, for fence (which nothing depends on: kept only to compare with the code) */
#ifdef TRACE
#define USED_FENCE 1
#else
#define USED_FENCE 0
#endif
bit lost;          /* the store that answers is not the one the guards know (S6) */
bit attv;          /* a session was attested in this era */
byte atp = NONE;   /* who was Primary in it */
byte inh;
bit palive;        /* peer-alive */
byte refd[2];      /* nonces closed without a winner, one bit each */

/* volatile: one gathering a candidate */
byte gn[2];        /* nonce, 0 = no gathering */
byte gp[2];
byte gans[2];
bit gy[2];         /* a yield is wanted */
bit gct[2];        /* candidate's own disk: good, and never left UpToDate */
bit gse[2];        /* the session that the claim names is still the one attested last */
bit gpr[2];        /* candidate says it is Primary */
bit grel[2];       /* a releasing claim */
bit gtp[2];        /* target's answer: Primary */
bit gtn[2];        /* target's answer: its generation is newer */
bit gtb[2];        /* target's answer: its disk is Outdated or Inconsistent (a detached one may come back as good) */
bit goff[2];       /* the offer is out */

/* messages that carry a version: it is the present one */
bit off[2], cmf[2], clf[2], hbf[2];
bit vf[2], cvf[2]; /* in a guard: of what it read last; of its close */
bit pf;            /* of what a person read */

bit gate[2];       /* E4, as attested; does not change */
bit quiet = 1;     /* the network is quiet, as the guards say with each beat */

/* ---- judging (DESIGN.md section 5): what the silent, the live and the consenting rows come to */
#define GATED(j) (M(MUT_NOGATE) || gate[j])
#define CONT(i) (M(MUT_NOCONT) || gct[i])
#define NEWER(i) (!M(MUT_NEWER) && gtn[i])
#define TPRIM(i) gtp[i]
#define SILENT_OK(i,j) (gans[i] == SILENT && attv && gse[i] && !(gpr[i] && atp == (j)) && CONT(i) && GATED(j))
#define LIVE_OK(i,j) (gans[i] == LIVE && gp[i] == ALONE && !NEWER(i) && !TPRIM(i) && (gtb[i] || GATED(j)))
#define YIELD_OK(i,j) (gans[i] == YIELDED && !NEWER(i) && !(gtp[i] && (gpr[i] || gtb[i] || !gate[j])))
#define VERDICT(i,j) (SILENT_OK(i,j) || LIVE_OK(i,j) || YIELD_OK(i,j))

/* A win is used again only on good data, and over a target that cannot write alone. */
#define BOUND(j) (M(MUT_REGATE) || (gate[j] || rbas == B_YIELD || rbas == B_PERSON))
#define RECONFIRM(i,j) (CONT(i) && !(gans[i] != SILENT && NEWER(i)) && BOUND(j) && \
  !(gp[i] == FENCE && (gans[i] == LIVE || rbas == B_PERSON)))

/* ---- inhibits (section 4, step 2 and the exceptions) */
#define SITTING(i) (attv && atp == i)
#define SPARED(i) (M(MUT_SITANY) || SITTING(i))
#define PERSONS(i) (!M(MUT_SITPERSON) && (inh == I_PERSON || (inh == I_PERSON_OVER && !quiet)))
#define FORBIDS_ALONE(i) ((palive && !SPARED(i)) || PERSONS(i) || \
  ((inh == I_NETWORK || (inh == I_NETWORK_OVER && !quiet)) && !SPARED(i)))
#define FORBIDS_FENCE(i) ((inh != I_NONE || palive) && !(M(MUT_BRAKEREC) && rw == i))
#define FORBIDS(i,p) ((p == FENCE && FORBIDS_FENCE(i)) || (p == ALONE && FORBIDS_ALONE(i)))
/* Asking for a yield is what ends peer-alive, so that alone is no obstacle to the question. */
#define FORBIDS_CLAIM(i,p,y) ((p == FENCE && (inh != I_NONE || (palive && !(y))) && !(M(MUT_BRAKEREC) && rw == i)) || \
  (p == ALONE && ((palive && !SPARED(i) && !(y)) || PERSONS(i) || \
  ((inh == I_NETWORK || (inh == I_NETWORK_OVER && !quiet)) && !SPARED(i)))))

#define MAYWIN(i) (M(MUT_REWIN) || (rw == NONE || rw == i))
#define CURRENT(b) (M(MUT_NOVERSION) || (b))
#define DEAD(i,n) ((refd[i] >> (n)) & 1)

inline bump() {
  off[0] = 0; off[1] = 0; cmf[0] = 0; cmf[1] = 0; clf[0] = 0; clf[1] = 0; hbf[0] = 0; hbf[1] = 0;
  vf[0] = 0; vf[1] = 0; cvf[0] = 0; cvf[1] = 0; pf = 0
}

inline a_drop(i) {
  gn[i] = 0; gp[i] = 0; gans[i] = 0; gy[i] = 0; gct[i] = 0; gse[i] = 0; gpr[i] = 0; grel[i] = 0; gtp[i] = 0; gtn[i] = 0;
  gtb[i] = 0; goff[i] = 0
}

/* A claim opens a gathering. */
#define CLAIMABLE(i,j,n,p,y) (MAYWIN(i) && !DEAD(i,n) && !FORBIDS_CLAIM(i,p,y))
inline a_claim(i, n, p, y, c, s, r, rel) {
  a_drop(i); gn[i] = n; gp[i] = p; gy[i] = y; gct[i] = c; gse[i] = s; gpr[i] = r; grel[i] = rel
}

/* An answer counts for the nonce it names, until the offer is out. */
#define HEARABLE(i,n) (n != 0 && gn[i] == n && !goff[i])
inline a_answer(i, ans, tp, tn, tb) {
  gans[i] = ans; gtp[i] = tp; gtn[i] = tn; gtb[i] = tb;
  if :: ans == YIELDED -> palive = 0 :: else fi
}

/* A target that answers contradicts its death: peer-alive; then the claim may be forbidden. */
#define OFFERABLE(i,j) (gn[i] != 0 && !goff[i] && MAYWIN(i))
inline a_contradicted(i) {
#ifdef WITH_HOLD
  if :: gans[i] == LIVE -> palive = 1 :: else fi
#else
  skip
#endif
}
inline a_offer(i) { goff[i] = 1; off[i] = 1 }

/* The only way to win by a claim. */
#define COMMITTABLE(i,j,n,p,f) (n != 0 && gn[i] == n && goff[i] && gp[i] == p && !FORBIDS(i,p) && CURRENT(f) && \
  MAYWIN(i) && ((rw == NONE && VERDICT(i,j)) || (rw == i && RECONFIRM(i,j)) || rw == 1 - i))
inline a_commit(i, p) {
  if
  :: rw != i -> rbas = (gans[i] == YIELDED -> B_YIELD : B_VERDICT); ruA = 0; ruF = 0; bump()
  :: rw == i && M(MUT_RECONFVER) -> cmf[i] = 0
  :: rw == i && !M(MUT_RECONFVER) -> bump()
  fi;
  rw = i;
  if :: p == ALONE -> ruA = 1 :: else -> ruF = USED_FENCE fi;
  a_drop(i)
}

#define ENDABLE(i,f) (rw == i && CURRENT(f))
#define RETURNABLE(i,f) (ENDABLE(i,f) && rbas != B_PERSON)
inline a_end(keeps) {
  rw = NONE; rbas = 0; ruA = 0; ruF = 0;
  if :: !M(MUT_OLDGATHER) -> a_drop(0); a_drop(1) :: else fi;
  if :: keeps -> skip :: else -> attv = 0; atp = NONE fi;
  bump()
}

/* What became of a claim that was yielded to: 0 still open or won by its candidate, 1 void. `i`: the candidate. */
#define VOID(i,j,n,c) (!(c) || rw == j || (rw == NONE && gn[i] != (n)))
inline a_void(i, n, c) {
  if
  :: (c) && rw == NONE && !M(MUT_VOIDNOSTORE) -> refd[i] = refd[i] | (1 << (n))
  :: else
  fi
}

inline a_restart() { a_drop(0); a_drop(1) }
