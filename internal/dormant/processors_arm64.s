#include "textflag.h"

// govirtiofs_start goes on to the Go runtime, which it tells to start with one processor
// if nothing else is asked for: it makes 16 KiB for each of the machine's, keeps them, and
// first thing sets some of them to work. A variable in front of the others says so, for
// which argc and argv move down. At RSP are argc, argv, 0, the environment and 0.
//
// Before that, it turns transparent huge pages off, if they are not; see AllowHugePages.
TEXT govirtiofs_start(SB),NOSPLIT|NOFRAME|TOPFRAME,$0
	MOVD	$167, R8		// prctl
	MOVD	$42, R0			// PR_GET_THP_DISABLE
	MOVD	$0, R1
	MOVD	$0, R2
	MOVD	$0, R3
	MOVD	$0, R4
	SVC	$0
	CBNZ	R0, count
	MOVD	$41, R0			// PR_SET_THP_DISABLE
	MOVD	$1, R1
	SVC	$0
	CBNZ	R0, count
	MOVD	$1, R0
	MOVB	R0, ·small(SB)
count:
	MOVD	0(RSP), R0
	MOVD	RSP, R1
	ADD	R0<<3, R1, R1
	ADD	$16, R1, R1		// environment
	MOVD	$0x4f525058414d4f47, R2	// "GOMAXPRO"
	MOVD	$0x5343, R3		// "CS"
next:
	MOVD.P	8(R1), R4
	CBZ	R4, tell
	MOVD	(R4), R5		// beyond the last string there are 10 bytes at least
	CMP	R2, R5
	BNE	next
	MOVHU	8(R4), R5
	CMP	R3, R5
	BNE	next
	MOVBU	10(R4), R5
	CMP	$'=', R5
	BNE	next
	B	_rt0_arm64_linux(SB)
tell:
	ADD	$2, R0, R0		// argc, argv and its 0
	MOVD	RSP, R1
	SUB	$16, RSP, RSP		// to which RSP has to be aligned
	MOVD	RSP, R2
move:
	MOVD.P	8(R1), R4
	MOVD.P	R4, 8(R2)
	SUB	$1, R0, R0
	CBNZ	R0, move
	// The variable twice, before the environment: Go forgets what is there a second time.
	MOVD	$oneProcessor<>(SB), R4
	STP	(R4, R4), (R2)
	MOVD	$1, R4
	MOVB	R4, ·told(SB)
	B	_rt0_arm64_linux(SB)

// oneProcessor is GOMAXPROCS=1, with a 0 at its end.
DATA oneProcessor<>+0(SB)/8, $"GOMAXPRO"
DATA oneProcessor<>+8(SB)/8, $"CS=1\x00\x00\x00\x00"
GLOBL oneProcessor<>(SB), RODATA|NOPTR, $16
