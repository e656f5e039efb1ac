"""Wrong changes of the shipped code: (the rule it drops, file, before, after, the test that must go red).

A mutant whose `before` is not found exactly once has rotted and fails the suite: mend it together with the code.
"""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    drops: str  # the rule, in words
    file: str
    before: str
    after: str
    red: str  # test node that must fail


CLAIM = "tests/core/test_machine_claim.py::"
SHOT = "tests/core/test_machine_shot.py::"
HOLD = "tests/core/test_machine_hold.py::"
ARBITER = "tests/core/test_machine_arbiter.py::"
STORY = "tests/rehearsal/test_stories.py::test_story"

MUTANTS = (
    # ---- S1, S3: the register
    Mutant(
        "S1 the winner of an era never changes",
        "guard/core/register.py",
        "    if register.winner != winner:\n        return None\n    # Also",
        "    # Also",
        CLAIM + "TestRegister::test_the_winner_of_an_era_never_changes",
    ),
    Mutant(
        "S1 a change is refused at another version",
        "guard/core/register.py",
        "    if version != register.version:\n        return None\n    if register.winner is None:",
        "    if register.winner is None:",
        CLAIM + "TestRegister::test_a_stale_version_writes_nothing",
    ),
    Mutant(
        "S1 a re-confirmation raises the version",
        "guard/core/register.py",
        "    return replace(register, used=register.used | {purpose}, version=version + 1)",
        "    return replace(register, used=register.used | {purpose})",
        CLAIM + "TestRegister::test_a_reconfirmation_adds_its_use_and_raises_the_version",
    ),
    Mutant(
        "S1 the loser is barred",
        "guard/core/claiming.py",
        '    if register.winner == guard.peer:\n        return "peer-won"',
        '    if register.winner == "":\n        return "peer-won"',
        CLAIM + "test_a_guard_whose_peer_won_claims_nothing",
    ),
    Mutant(
        "S3 the arbiter makes no offer to the loser",
        "guard/core/arbiter.py",
        "    if kept.register.winner == target:\n",
        '    if kept.register.winner == "":\n',
        ARBITER + "test_the_loser_gets_no_offer",
    ),
    Mutant(
        "S3 a win that was used is not handed back",
        "guard/core/close.py",
        "    if guard.memory.used or guard.attempt is not None",
        "    if guard.attempt is not None",
        "tests/core/test_machine_close.py::test_a_win_that_was_used_is_never_handed_back",
    ),
    Mutant(
        "S3 a yielded node does not resume because the peer won",
        "guard/core/claiming.py",
        'answer.state in ("open", "winner-peer")',
        'answer.state in ("open",)',
        CLAIM + "test_a_yield_is_void_only_by_the_arbiters_word",
    ),
    Mutant(
        "S3 a yielded node claims nothing",
        "guard/core/claiming.py",
        '    if guard.memory.promise is not None:\n        return "yielded"',
        '    if guard.yielding == "":\n        return "yielded"',
        CLAIM + "test_a_yielded_node_claims_nothing",
    ),
    Mutant(
        "S3 a nonce that was called closed stays closed",
        "guard/core/arbiter.py",
        "    if message.nonce in kept.refused_nonces:",
        '    if message.nonce == "":',
        ARBITER + "test_a_claim_that_was_called_closed_never_comes_back",
    ),
    # ---- S2: evidence
    Mutant(
        "S2 words of another session are stale",
        "guard/core/arbiter.py",
        '        fresh = "silent" if tied else "stale"',
        '        fresh = "silent"',
        ARBITER + "test_words_of_another_session_are_stale",
    ),
    Mutant(
        "S2 continuity of the candidate's disk",
        "guard/core/claim.py",
        '    if fresh == "silent" and not mine.continuous:\n        fresh = "stale"\n',
        "",
        CLAIM + "test_without_continuity_a_silent_targets_words_tie_to_nothing",
    ),
    Mutant(
        "S2 an unknown gate is off",
        "guard/core/claim.py",
        "theirs.gate is True",
        "theirs.gate is not False",
        CLAIM + "test_over_a_silent_target_without_gate_nobody_wins",
    ),
    Mutant(
        "S2 the arbiter's own verdict must agree",
        "guard/core/arbiter.py",
        '        if ruling.next != "commit":\n            return no(ruling.reason, ruling.verdict.text)\n',
        "",
        ARBITER + "test_the_arbiters_own_verdict_must_agree",
    ),
    Mutant(
        "S2 a frozen primary may have a write under way",
        "guard/core/attesting.py",
        "        age = Age(0.0, age.hi_s)\n",
        "        age = Age(age.lo_s, age.hi_s)\n",
        STORY + "[write_under_way]",
    ),
    # ---- the living target, and what contradicts a death
    Mutant(
        "a living target is never fenced without its yield",
        "guard/core/claim.py",
        '    if purpose == "fence" and bundle.fresh == "live" and not bundle.target_yielded:\n',
        '    if purpose == "fence" and bundle.fresh == "?" and not bundle.target_yielded:\n',
        CLAIM + "test_a_living_target_is_never_fenced_without_its_yield",
    ),
    Mutant(
        "an answer of the target is a network, not a death",
        "guard/core/arbiter.py",
        'if answer is not None and answer.evidence.cluster != "down" and not answer.yielded:',
        'if answer is not None and answer.evidence.cluster == "" and not answer.yielded:',
        ARBITER + "test_a_target_that_answers_is_a_network_not_a_death",
    ),
    Mutant(
        "any word of the target after the question contradicts its death",
        "guard/core/arbiter.py",
        "    elif answer is None and not unheard:",
        "    elif answer is None and unheard is None:",
        "tests/core/test_machine_arbiter.py::test_a_target_heard_after_the_question_is_alive",
    ),
    Mutant(
        "a guard that said bye is not dead",
        "guard/core/arbiter.py",
        "    elif target in pair.left and",
        '    elif target == "" and',
        STORY + "[guard_stopped_in_the_freeze]",
    ),
    Mutant(
        "peer-alive ends whichever of the two nodes is gone",
        "guard/core/arbiter.py",
        "any(_gone(pair, node, now, policy) for node in pair.kept.nodes)",
        "_gone(pair, pair.kept.other(inhibit.owner), now, policy)",
        STORY + "[freeze_then_death]",
    ),
    Mutant(
        "an overtaken beat says nothing",
        "guard/core/arbiter.py",
        "    return known is not None and recent and beat.seq <= known.seq",
        "    return known is not None and recent and beat.seq < 0",
        ARBITER + "test_an_overtaken_beat_says_nothing",
    ),
    # ---- S4: windows
    Mutant(
        "S4 T_fire",
        "guard/core/claiming.py",
        '    if turn.since(attempt.committed) > guard.policy.fire_s:\n        drop(turn, "win-too-late"',
        '    if turn.since(attempt.committed) > 1e9:\n        drop(turn, "win-too-late"',
        CLAIM + "test_a_win_gives_a_right_only_within_t_fire",
    ),
    Mutant(
        "S4 T_accept",
        "guard/core/arbiter.py",
        "    if elapsed_s(gathering.offered, now) > policy.accept_s or",
        "    if elapsed_s(gathering.offered, now) > 1e9 or",
        ARBITER + "test_a_commit_outside_the_window_is_stale",
    ),
    Mutant(
        "S4 start_by is read once more before the shot",
        "guard/core/shot.py",
        "    late = turn.now > intent.start_by",
        "    late = turn.now > intent.start_by + 10**12",
        SHOT + "test_nothing_is_fired_after_start_by",
    ),
    Mutant(
        "S4 no close before the drain",
        "guard/core/close.py",
        "    return not busy and not undrained(guard, turn.now)",
        "    return not busy",
        STORY + "[shots_wait_in_the_network]",
    ),
    Mutant(
        "S4 a shot that did not end clean drains for H",
        "guard/core/shot.py",
        "    if not event.clean:\n",
        "    if event.clean is None:\n",
        SHOT + "test_a_shot_that_did_not_end_clean_drains_for_h",
    ),
    Mutant(
        "S4 a guard start gives old shots their drain",
        "guard/core/shot.py",
        "        drained = None if horizon is None else after(turn.now, horizon)\n        intents.append(replace",
        "        drained = turn.now\n        intents.append(replace",
        SHOT + "test_a_guard_start_gives_old_shots_their_drain",
    ),
    Mutant(
        "S4 rights end at K2",
        "guard/core/close.py",
        '    drop(turn, "closing", "the era is being closed")\n    turn.put(right=None)\n',
        "",
        SHOT + "test_the_winner_gives_up_its_right_before_it_asks_to_close",
    ),
    Mutant(
        "S4 the loser renounces at K3",
        "guard/core/close.py",
        '    drop(turn, "closing", "the winner invited to close the era")\n    turn.put(right=None)\n',
        "",
        SHOT + "test_an_invitation_to_close_ends_every_right_of_the_loser",
    ),
    Mutant(
        "S4 K4: the session stands since K2 without a break",
        "guard/core/close.py",
        "    standing = connected(guard) and guard.halves.connects == closing.connects\n    if not",
        "    standing = connected(guard)\n    if not",
        SHOT + "test_an_era_is_ended_only_over_an_unbroken_session",
    ),
    Mutant(
        "one reading confirms nothing",
        "guard/core/shot.py",
        "        if job.offs >= 2:\n            _confirm(turn, job)\n        elif job.reading",
        "        if job.offs >= 1:\n            _confirm(turn, job)\n        elif job.reading",
        STORY + "[device_lies_once]",
    ),
    Mutant(
        "without a verified exit two readings are needed",
        "guard/core/shot.py",
        "offs=1 if verified else 0",
        "offs=1",
        SHOT + "test_two_readings_off_confirm_and_less_does_not",
    ),
    # ---- S5: the hold
    Mutant(
        "S5 inhibits are looked at once more at the commit",
        "guard/core/arbiter.py",
        "    if (refusal := _refusal(pair, sender, message, site, policy)) is not None:\n"
        "        return _drop(pair, sender), ((sender, refusal),)\n",
        "",
        ARBITER + "test_an_inhibit_that_came_after_the_offer_stops_the_commit",
    ),
    Mutant(
        "S5 inhibits are looked at once more before the shot",
        "guard/core/shot.py",
        "    if late or stopped:",
        "    if late:",
        SHOT + "test_an_inhibit_in_the_last_moment_stops_the_shot",
    ),
    Mutant(
        "S5 an inhibit between commit and win ends the right",
        "guard/core/claiming.py",
        "    if stopped is not None:\n        drop(turn, stopped[0]",
        "    if stopped == ():\n        drop(turn, stopped[0]",
        CLAIM + "test_an_inhibit_between_commit_and_win_ends_a_right_to_fence",
    ),
    Mutant(
        "S5 nobody goes on alone under a person's hold",
        "guard/core/claim.py",
        "                if not inhibit.ended or quiet_for_s < policy.settle_s:",
        "                if not inhibit.ended and not sitting:",
        STORY + "[person_holds]",
    ),
    Mutant(
        "S5 an inhibit that comes during the release is kept",
        "guard/core/hold.py",
        "    elif event.done and all(i.ended for i in inhibits(turn.guard)):",
        "    elif event.done:",
        HOLD + "test_an_inhibit_that_comes_during_the_release_is_kept",
    ),
    Mutant(
        "L2 no release without wholeness",
        "guard/core/hold.py",
        "    if whole(guard) is not True and not rejoin:",
        "    if whole(guard) == 2 and not rejoin:",
        HOLD + "test_a_hold_is_not_released_while_anything_speaks_against_it",
    ),
    Mutant(
        "L2 no release without a harmless forecast",
        "guard/core/hold.py",
        "    if mine.release_harmless is not True:",
        "    if mine.release_harmless == 2:",
        HOLD + "test_a_hold_is_not_released_while_anything_speaks_against_it",
    ),
    Mutant(
        "S5 nobody is promoted while the hold is being released",
        "guard/core/claiming.py",
        'purpose == "fence" or not (stays or cold or releasing)',
        'purpose == "fence"',
        "tests/core/test_machine_hold.py::test_while_a_hold_is_released_only_a_sitting_primary_may_go_on_alone",
    ),
    Mutant(
        "L2 a property that nobody holds is taken back",
        "guard/core/hold.py",
        "        if left_over and turn",
        "        if left_over is None and turn",
        "tests/core/test_machine_hold.py::test_a_property_of_ours_that_nobody_holds_is_taken_back",
    ),
    # ---- what the hostile review found
    Mutant(
        "S2 a winner whose disk left UpToDate may not use its win again",
        "guard/core/claim.py",
        "        if replica.disk not in good or not replica.continuous:",
        "        if replica.disk not in good and replica.continuous is None:",
        "tests/core/test_arbiter.py::test_a_winner_that_lost_its_data_may_not_use_its_win_again",
    ),
    Mutant(
        "S3 a late question replaces no promise",
        "guard/core/claiming.py",
        "    if promise is not None:\n        # One promise",
        "    if promise is None and False:\n        # One promise",
        "tests/core/test_machine_claim.py::test_a_late_question_does_not_replace_a_promise_that_is_counted_on",
    ),
    Mutant(
        "S3 a cut primary is not resumed",
        "guard/core/claiming.py",
        "(not primary(guard) or connected(guard))",
        "True",
        "tests/core/test_machine_claim.py::test_a_cut_primary_is_never_resumed_by_a_void_promise",
    ),
    Mutant(
        "S4 a released hold does not come back",
        "guard/core/arbiter.py",
        "            if persons and (new.id, new.since_wall) in pair.kept.lifted:",
        "            if persons and new.id == PEER_ALIVE:",
        "tests/core/test_arbiter.py::test_a_late_copy_does_not_bring_back_a_released_hold",
    ),
    Mutant(
        "S6 a memory that began in this era hands nothing back",
        "guard/core/close.py",
        "    if guard.memory.since_era is None or",
        "    if guard.memory.since_era == -1 and",
        "tests/core/test_machine_close.py::test_a_memory_that_began_in_this_era_hands_nothing_back",
    ),
    # ---- S6: durable before said
    Mutant(
        "S6 the intent is durable before the shot",
        "guard/core/shot.py",
        "    _set_intent(turn, replace(intent, spawned=True))\n",
        "",
        STORY + "[hung_kernel]",
    ),
    Mutant(
        "S6 the use of a win is journaled before it happens",
        "guard/core/shot.py",
        '    _use(turn, "alone")\n    turn.do(Bar(guard.peer, on=True))',
        "    turn.do(Bar(guard.peer, on=True))",
        STORY + "[freeze_out_of_band]",
    ),
    Mutant(
        "S6 a yield is stored before it is said",
        "guard/core/claiming.py",
        "        turn.remember(promise=promise)\n",
        "",
        STORY + "[gate_off_yield]",
    ),
    Mutant(
        "S6 another store is believed by nobody",
        "guard/core/attesting.py",
        "    if register.store_id != memory.store_id:\n",
        '    if register.store_id == "":\n',
        CLAIM + "test_another_store_or_an_older_register_is_believed_by_nobody",
    ),
    Mutant(
        "S6 an older register is believed by nobody",
        "guard/core/attesting.py",
        '    return "an older register" if register.version < memory.version else None',
        "    return None",
        STORY + "[store_lost]",
    ),
    # ---- S7: only its own
    Mutant(
        "S7 a property that is not ours is not taken back",
        "guard/core/hold.py",
        "    if guard.cluster is not None and guard.cluster.ours is None:\n        _released(turn)\n        return\n",
        "",
        HOLD + "test_nothing_is_taken_back_that_is_not_there",
    ),
    Mutant(
        "S7 only own inhibits are lifted",
        "guard/core/hold.py",
        "(everyones or persons or inhibit.id in guard.memory.inhibits) and inhibit.id in theirs",
        "inhibit.id in theirs",
        HOLD + "test_a_release_lifts_no_disturbance_of_the_peer",
    ),
    Mutant(
        "S7 peer-alive is not lifted by a guard",
        "guard/core/arbiter.py",
        '            if found is not None and found.kind in ("peer-alive", "storm"):',
        '            if found is not None and found.kind == "storm":',
        ARBITER + "test_a_guard_may_not_touch_what_the_arbiter_found",
    ),
    # ---- liveness
    Mutant(
        "L1 a lost `Closed` leaves no constraint behind",
        "guard/core/machine.py",
        'whole(guard) is True and turn.every("unbar", 30.0):',
        'whole(guard) is None and turn.every("unbar", 30.0):',
        STORY + "[words_closed]",
    ),
)
