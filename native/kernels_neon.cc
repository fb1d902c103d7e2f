#ifndef RUNOFF_EMULATE
#include <arm_neon.h>
#endif

#define RUNOFF_NAME "neon"
#define RUNOFF_TABLE neon_kernels
#define RUNOFF_LANES 4
#define RUNOFF_ROWS 6
#define RUNOFF_PANELS 1
#define RUNOFF_BYTE_FORM ByteForm::s8s8
#define RUNOFF_FAST_I16 false
#define RUNOFF_FAST_I8 false
#include "kernels_impl.h"
