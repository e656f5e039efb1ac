/* Which rule is dropped, if any. One compiled model serves all mutants of its features:
 * $MUTANT names one by number; $FAULTS and $CLAIMS are the bounds of a BOUNDED model. With $CALM no guard restarts
 * and no node dies, which leaves room for longer stories. */
#ifdef CHOOSE
c_decl {
static int number(const char *name, int other) { return getenv(name) ? atoi(getenv(name)) : other; }
}
byte mut;
byte calm;
#ifdef BOUNDED
#define CHOOSE_MUTANT c_code { now.mut = number("MUTANT", 0); now.calm = number("CALM", 0); now.luck = number("FAULTS", 2); now.tries = number("CLAIMS", 2); }
#else
#define CHOOSE_MUTANT c_code { now.mut = number("MUTANT", 0); now.calm = number("CALM", 0); }
#endif
#else
#ifndef MUTANT
#define MUTANT 0
#endif
#ifndef CALM
#define CALM 0
#endif
byte mut = MUTANT;
byte calm = CALM;
#define CHOOSE_MUTANT skip
#endif
#define M(x) (mut == x)

#define MUT_NODRAIN 1          /* closes though its shot has not drained */
#define MUT_KEEPRIGHT 2        /* K2 leaves the right */
#define MUT_NOCONT 3           /* notie: nothing ties the candidate's disk to the attested session */
#define MUT_NOREPLY 4          /* closes without the loser's answer */
#define MUT_NONONCE 5          /* takes any win for its claim's */
#define MUT_AMNESIA 6          /* believes a register that lost its memory */
#define MUT_EXPIRE 7           /* a win runs out */
#define MUT_KEEPCLAIM 8        /* a claim under way at K2 goes on */
#define MUT_NORENOUNCE 9       /* the renunciation is not stored */
#define MUT_ASKEARLY 10        /* the loser is asked before the drain */
#define MUT_REWIN 11           /* the arbiter lets the loser win */
#define MUT_RECONFVER 12       /* a re-confirmation keeps the version */
#define MUT_HBUSED 13          /* handed back though used */
#define MUT_HBRIGHT 14         /* handed back with the right in hand */
#define MUT_USEDVOLATILE 15    /* a use is not journaled */
#define MUT_NOGATE 16          /* a silent target without a gate is granted */
#define MUT_NEWER 17           /* a living target's newer generation is not looked at */
#define MUT_NOINTENT 18        /* intents are not durable */
#define MUT_DRAINEXIT 19       /* drained when the agent ends, whatever is in the network */
#define MUT_WONFIRST 20        /* said before it is durable */
#define MUT_INITDRAIN 21       /* a new register while a shot is undrained */
#define MUT_REGATE 22          /* a win is used again over a target without a gate */
#define MUT_CLAIMCONN 25       /* a claim outlives the disconnection it was made in */
#define MUT_CLOSENONCE 23      /* an answer of an earlier close counts */
#define MUT_NOVERSION 24       /* a close or hand-back at any version */
#define MUT_OLDGATHER 26       /* what was gathered in an earlier era still counts */
#define MUT_DISKLESS 27        /* a living gateless target without a disk is granted as one with an old disk is (V11) */
#define MUT_RESUMETIMER 30     /* a yield ends by a timer */
#define MUT_RESUMERECONNECT 31 /* a yield ends because replication is back */
#define MUT_VOIDNOSTORE 32     /* "closed without a winner" is not stored */
#define MUT_YIELDVOLATILE 33   /* a promise does not survive a guard start */
#define MUT_NOSUSPEND 35       /* yields without suspending writes */
#define MUT_RESUMECUT 36       /* a cut primary is resumed */
#define MUT_NOCERT 40          /* a person wins over a gateless node without a certificate */
#define MUT_CERTVERSION 41     /* the certificate is tied to no version */
#define MUT_CERTWORD 42        /* a word from the certified node voids nothing */
#define MUT_NODRAINPERSON 43   /* a person's win with an undrained shot */
#define MUT_ANNGATE 50         /* announced over a peer without a gate */
#define MUT_BRAKEREC 60        /* a re-confirmation ignores the brake */
#define MUT_HELDONE 61         /* held without asking both */
#define MUT_RELTIMER 62        /* a hold ends by a timer */
#define MUT_RELEARLY 63        /* a releasing claim before all has ended and is quiet */
#define MUT_RELLIVE 64         /* the hold is lifted though the target is live */
#define MUT_RELLATE 69         /* a releasing win lifts the hold though an inhibit came meanwhile */
#define MUT_SITANY 65          /* a secondary may claim alone under a hold as the sitting primary may */
#define MUT_SITPERSON 66       /* ... also under a person's inhibit */
#define MUT_OLDROLE 68         /* who was Primary is learnt from the arbiter alone, not from the own disk */
#define MUT_OLDWORD 67         /* what a node said of an earlier hold counts for this one */
