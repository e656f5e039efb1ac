/* What one guard, its node, and the arbiter on its words may do: options of one loop, included once for each node.
 * `i` is the node, `j` its peer.
 */

  /* ---- reading the register */
  :: d_step { on[i] && !lost && (view[i] != rw || !vf[i] || !gera[i] || pcert == i || STALE_HOLD(i)) ->
     read_register(i); done(i) }

  /* ---- claim: 1 fence, 2 alone; wanting a yield; to be released */
  :: d_step { CLAIMS(i,j) && !GFORBIDS(i, FENCE, 0) -> say_claim(i, FENCE, 0, 0); done(i) }
  :: d_step { CLAIMS(i,j) && !alone[i] && !GFORBIDS(i, ALONE, 0) -> say_claim(i, ALONE, 0, 0); done(i) }
#ifdef WITH_YIELD
  :: d_step { CLAIMS(i,j) && !GFORBIDS(i, FENCE, 0) -> say_claim(i, FENCE, 1, 0); done(i) }
  :: d_step { CLAIMS(i,j) && !alone[i] && !GFORBIDS(i, ALONE, 0) -> say_claim(i, ALONE, 1, 0); done(i) }
#endif
#ifdef WITH_HOLD
  :: d_step { CLAIMS(i,j) && braked[i] && (M(MUT_RELEARLY) || (!own[i] && vinh[i] != I_NETWORK && vinh[i] != I_PERSON &&
       quiet && !GFORBIDS(i, ALONE, 1))) -> say_claim(i, ALONE, 0, 1); done(i) }
#endif
  :: d_step { on[i] && att[i] != 0 && !ast[i] && ofn[i] != 0 && ofn[i] == an[i] && (!lost || M(MUT_AMNESIA)) ->
     if
     :: (ofw[i] == j && !M(MUT_REWIN)) || !FREE(i,j) || GFORBIDS(i, att[i], arel[i]) -> end_attempt(i)
     :: else -> cmn[i] = an[i]; cmp[i] = att[i]; cmf[i] = off[i]; ast[i] = 1; EV("say-commit %d\n", i)
     fi; done(i) }
  :: d_step { on[i] && wnn[i] != 0 && (wnn[i] == an[i] || M(MUT_NONONCE)) && ast[i] && wnp[i] == att[i] ->
     if
     :: GFORBIDS(i, att[i], arel[i]) && !(arel[i] && M(MUT_RELEARLY)) -> end_attempt(i)
     :: else -> gera[i] = 1; won(i, j); end_attempt(i)
     fi; done(i) }
  :: d_step { att[i] != 0 && LUCKY -> spend(); end_attempt(i); done(i) } /* refused, or no answer in time */
  :: d_step { right[i] != 0 && right[i] != STANDING && LUCKY -> spend(); right[i] = 0; kept[i] = 0 } /* T_fire */

  /* ---- use of a right */
  :: d_step { on[i] && right[i] == ALONE && !see[i] && !SUSP(i) -> go_on(i, j); right[i] = 0; kept[i] = 0 }
  :: d_step { on[i] && right[i] == STANDING && !see[i] && prim[i] && !alone[i] -> go_on(i, j) }
  :: d_step { on[i] && right[i] == FENCE && intent[i] == 0 ->
     used[i] = 1; intent[i] = 1; right[i] = 0; kept[i] = 0 }
  :: d_step { on[i] && intent[i] == 1 ->
     if
     :: BRAKED(i) || closing[i] != 0 -> intent[i] = 0
     :: else ->
        intent[i] = 2;
        if :: !fly[i] -> fcur[i] = 1 :: else fi;
        fly[i] = 1;
        if :: held -> BROKEN(S5_fired_while_held) :: else fi;
        if :: !WON(i) -> BROKEN(S4_shot_outside_its_era) :: else fi
     fi }
  :: d_step { intent[i] == 1 && LUCKY -> spend(); intent[i] = 0 } /* start_by has passed */
  :: d_step { fly[i] && (intent[i] == 2 || M(MUT_NOINTENT) || M(MUT_DRAINEXIT)) ->
     intent[i] = 0; fly[i] = 0; fcur[i] = 0 } /* drained: landed or gone, whatever could still act */
  :: d_step { intent[i] == 2 && M(MUT_DRAINEXIT) -> intent[i] = 0 }

  /* ---- close, K1 to K5; hand-back */
  :: d_step { on[i] && view[i] == i && vf[i] && closing[i] == 0 && see[i] && !bad[i] && !div[i] && !chg && !lost && intent[i] != 1 &&
       (intent[i] == 0 || M(MUT_ASKEARLY) || M(MUT_NODRAIN)) ->
     if :: !M(MUT_KEEPCLAIM) -> end_attempt(i) :: else fi;
     if :: !M(MUT_KEEPRIGHT) -> right[i] = 0 :: else fi;
     if :: !M(MUT_NORENOUNCE) && !M(MUT_KEEPRIGHT) -> kept[i] = 0 :: else fi;
     closing[i] = 1; ka[i] = 1; cvf[i] = vf[i];
     if :: M(MUT_NOREPLY) -> kb[i] = 1 :: !M(MUT_NOREPLY) && !M(MUT_CLOSENONCE) -> kb[i] = 0 :: else fi;
     done(i) }
  :: d_step { on[i] && ka[j] && conn && WHOLE && intent[i] == 0 && gera[i] ->
     ka[j] = 0; kb[j] = 1; end_attempt(i); right[i] = 0; kept[i] = 0; done(i) }
  :: d_step { on[i] && closing[i] == 1 && kb[i] && see[i] && (intent[i] == 0 || M(MUT_NODRAIN)) ->
     closing[i] = 2; kb[i] = 0; ka[i] = 0; clo[i] = 1; clf[i] = cvf[i]; EV("say-close %d\n", i); done(i) }
  :: d_step { closing[i] != 0 && LUCKY -> spend(); k_end(i) } /* given up */
  :: d_step { on[i] && view[i] == i && vf[i] && gera[i] && att[i] == 0 && closing[i] == 0 && !lost && !hb[i] &&
       (right[i] == 0 || M(MUT_HBRIGHT)) && (M(MUT_HBUSED) || (!used[i] && intent[i] == 0)) ->
     hb[i] = 1; hbf[i] = vf[i]; EV("say-handback %d\n", i); done(i) }

  /* ---- asked on the peer's claim; its own promise */
  :: d_step { on[i] && askn[j] != 0 ->
     ansn[j] = askn[j]; anstp[j] = prim[i]; anstn[j] = div[i]; anstb[j] = bad[i] && (!out[i] || M(MUT_DISKLESS)); ansv[j] = LIVE;
     give_yield(i, j);
     askn[j] = 0; asky[j] = 0;
#ifdef QUICK
     if :: HEARABLE(j, ansn[j]) -> hear_answer(j, i) :: else fi;
#endif
     done(j) }
#ifdef WITH_YIELD
  :: d_step { on[i] && pn[i] != 0 && M(MUT_RESUMETIMER) -> unyield(i) }
  :: d_step { on[i] && pn[i] != 0 && !lost && VOID(j, i, pn[i], pc[i]) && (!prim[i] || conn || M(MUT_RESUMECUT)) ->
     EV("void %d %d %d\n", j, pn[i], pc[i]); a_void(j, pn[i], pc[i]); unyield(i) }
#endif

  /* ---- network, disks, power */
  :: d_step { see[i] && !conn -> see[i] = 0; k_end(i) }
  :: d_step { ACKS(i) && !div[i] -> div[i] = 1 }
  :: d_step { on[i] && conn && prim[i] && bad[j] && !SUSP(i) && !div[i] -> div[i] = 1 } /* the peer has no disk */
  :: d_step { conn && div[i] && see[0] && see[1] -> div[i] = 0; bad[j] = 0; out[j] = 0 } /* resynced */
#ifdef WITH_DISKS
  :: d_step { on[i] && conn && !bad[i] && !bad[j] && !prim[i] && att[i] == 0 && right[i] == 0 && intent[i] == 0 && LUCKY ->
     spend(); bad[i] = 1; out[i] = 1; cont[i] = 0 } /* own disk detached */
  :: d_step { on[i] && !conn && !see[i] && out[i] -> bad[i] = 0; out[i] = 0 } /* attached again, good by its own words */
#endif
  :: d_step { conn && bad[i] && !div[j] && see[0] && see[1] -> bad[i] = 0; out[i] = 0 }
  :: d_step { WHOLE && prim[i] && right[i] == 0 && !SUSP(i) && !SUSP(j) && !(rw == i && ruA) && LUCKY ->
     spend(); prim[i] = 0; prim[j] = 1; SITS(j);
     if :: !M(MUT_OLDROLE) -> sg[i] = 0 :: else fi } /* switched over: its guard sees its own role at once */
  :: d_step { WHOLE && !prim[0] && !prim[1] && !SUSP(i) && !(rw == j && ruA) -> prim[i] = 1; SITS(i) } /* started */
  :: d_step { on[i] && !conn && prim[i] && !alone[i] && !SUSP(i) && rw == j -> prim[i] = 0 } /* the loser stops */
#ifdef WITH_GATES
  :: d_step { on[i] && !conn && !see[i] && !gate[i] && !prim[i] && !SUSP(i) && view[i] == NONE && E1(i) ->
     prim[i] = 1 } /* nothing but its cluster keeps a gateless node from this */
#endif
  :: d_step { on[i] && !calm && LUCKY -> spend(); restart(i); done(i) }
  :: d_step { on[i] && !calm && LUCKY -> spend(); down(i); done(i) }
  :: d_step { !on[i] -> on[i] = 1 }
  :: d_step { fly[i] && (on[j] || !fcur[i] || !WON(i) || held) ->
     if :: held -> BROKEN(S5_fired_while_held) :: else fi;
     if :: !fcur[i] || !WON(i) -> BROKEN(S4_shot_outside_its_era) :: else fi;
     if
     :: on[j] ->
        if :: fenced[i] -> BROKEN(S1_both_fenced) :: else fi;
        if :: div[j] -> BROKEN(S2_only_copy_fenced) :: else fi;
        fenced[j] = 1; dead[j] = 1; down(j)
     :: else
     fi; done(j) }

  /* ---- the arbiter hears i */
  :: d_step { cln[i] != 0 && CLAIMABLE(i, j, cln[i], clp[i], cly[i]) && gn[i] != cln[i] ->
     hear_claim(i); heard_claim(i); done(i) }
  :: d_step { cln[i] != 0 && !CLAIMABLE(i, j, cln[i], clp[i], cly[i]) ->
     EV("claim %d %d %d %d %d %d 0\n", i, cln[i], clp[i], cly[i], clc[i], clr[i]);
     word(i); cln[i] = 0; end_attempt(i); done(i) }
  :: d_step { ansn[i] != 0 && HEARABLE(i, ansn[i]) ->
     hear_answer(i, j); done(i) }
  :: d_step { OFFERABLE(i,j) ->
     a_contradicted(i);
     if
     :: FORBIDS(i, gp[i]) -> EV("offer %d 0\n", i); a_drop(i)
     :: else -> ofn[i] = gn[i]; ofw[i] = rw; a_offer(i); EV("offer %d 1\n", i)
     fi; done(i) }
  :: d_step { goff[i] && LUCKY -> spend(); EV("window %d\n", i); a_drop(i); done(i) }
  :: d_step { COMMITTABLE(i, j, cmn[i], cmp[i], cmf[i]) ->
     EV("commit %d %d 1\n", i, cmp[i]);
     if :: held && inh == I_PERSON -> BROKEN(S5_promoted_while_held) :: else fi;
     wnn[i] = cmn[i]; wnp[i] = cmp[i]; NOTE_LIVE(i);
     a_commit(i, cmp[i]); EV("register %d %d %d %d\n", rw, rbas, ruA, ruF); word(i); done(0); done(1) }
  :: d_step { cmn[i] != 0 && !COMMITTABLE(i, j, cmn[i], cmp[i], cmf[i]) ->
     EV("commit %d %d 0\n", i, cmp[i]); word(i); cmn[i] = 0; end_attempt(i); done(i) }
  :: d_step { clo[i] && ENDABLE(i, clf[i]) ->
     if :: fly[i] || fly[j] -> BROKEN(S4_closed_over_a_shot) :: else fi;
     if :: dead[i] || dead[j] -> BROKEN(S4_closed_over_a_dead_loser) :: else fi;
     if :: right[i] || right[j] -> BROKEN(S4_closed_over_a_right) :: else fi;
     new_era(0); EV("close %d\n", i); done(0); done(1) }
  :: d_step { hb[i] && RETURNABLE(i, hbf[i]) -> EV("handback %d\n", i); new_era(1); done(0); done(1) }
  :: d_step { rw == i && M(MUT_EXPIRE) -> new_era(1); done(0); done(1) }

#ifdef WITH_ANNOUNCED
  /* ---- the announced win: one exchange, whose answer may be lost */
  :: d_step { ANNOUNCES(i,j) -> announce(i); right[i] = STANDING; done(0); done(1) }
  :: d_step { ANNOUNCES(i,j) && LUCKY -> spend(); announce(i); done(0); done(1) }
#endif

#ifdef WITH_PERSON
  /* ---- a person names i the winner */
  :: d_step { !pers && !lost && !see[i] -> pers = 1; pf = 1 }
  :: d_step { pers && pcert == NONE && !on[j] -> pcert = j }
  :: d_step { pers && E1(i) && on[i] && rw == NONE && !lost &&
       (pf || M(MUT_CERTVERSION)) && (pcert == j || (gate[j] && attv && cont[i]) || M(MUT_NOCERT)) ->
     if :: pcert == j -> give_up(j) :: else fi;
     rw = i; rbas = B_PERSON; ruA = 1; ruF = 0; bump(); pcert = NONE; pers = 0; done(0); done(1) }
  :: d_step { pers && E1(i) && on[i] && rw == j && pcert == j && !lost && (pf || M(MUT_CERTVERSION)) &&
       ((intent[j] == 0 && !fly[j]) || M(MUT_NODRAINPERSON) || (M(MUT_CERTVERSION) && !pf)) ->
     new_era(0); give_up(j);
     rw = i; rbas = B_PERSON; ruA = 1; ruF = 0; pcert = NONE; pers = 0; done(0); done(1) }
#endif

#ifdef WITH_HOLD
  /* ---- the hold */
#ifndef NO_SIGNS
  :: d_step { on[i] && !own[i] && LUCKY -> spend(); /* a sign of network change */
     quiet = 0; own[i] = 1; braked[i] = 1; no_fence(i); EV("quiet 0\n") }
#endif
  :: d_step { on[i] && own[i] && (inh == I_NONE || inh == I_NETWORK_OVER) -> set_inhibit(I_NETWORK); EV("inhibit 1\n") }
  :: d_step { on[i] && own[i] && quiet -> own[i] = 0;
     if :: inh == I_NETWORK && !own[j] -> inh = I_NETWORK_OVER; EV("inhibit 3\n") :: else fi }
  :: d_step { on[i] && stm[i] != (inh != I_NONE && kin[i] && STATES(i)) -> stm[i] = !stm[i] } /* a beat */
  :: d_step { on[i] && braked[i] && (vinh[i] == I_NETWORK || vinh[i] == I_PERSON) && vinh[i] == inh && STATES(i) && !held &&
       (stm[j] || M(MUT_HELDONE)) -> held = 1 }
  :: d_step { on[i] && braked[i] && WHOLE && quiet && !own[0] && !own[1] && inh != I_NETWORK && inh != I_PERSON &&
       intent[i] == 0 && intent[j] == 0 && vinh[i] == inh -> lift(i, 1) }
  :: d_step { on[i] && braked[i] && M(MUT_RELTIMER) -> lift(i, 0) }
#endif
