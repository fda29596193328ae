#include "textflag.h"

// govirtiofs_entry is there so that programs are linked in the same way everywhere. There
// is no waiting here yet, for want of a machine to try it on.
TEXT govirtiofs_entry(SB),NOSPLIT|NOFRAME|TOPFRAME,$0
	JMP	_rt0_arm64_linux(SB)
