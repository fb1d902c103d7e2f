#if defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#define RUNOFF_NAME "portable"
#define RUNOFF_TABLE portable_kernels
#define RUNOFF_LANES 4
#define RUNOFF_ROWS 3
#define RUNOFF_PANELS 1
#define RUNOFF_BYTE_FORM ByteForm::s16s16
#define RUNOFF_FAST_I16 false
#define RUNOFF_FAST_I8 false
#include "kernels_impl.h"
