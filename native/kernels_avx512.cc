#ifndef RUNOFF_EMULATE
#include <immintrin.h>
#endif

#define RUNOFF_NAME "avx512"
#define RUNOFF_TABLE avx512_kernels
#define RUNOFF_LANES 16
#define RUNOFF_ROWS 6
#define RUNOFF_PANELS 4
#define RUNOFF_BYTE_FORM ByteForm::u8s8
#define RUNOFF_FAST_I16 true
#define RUNOFF_FAST_I8 false
#include "kernels_impl.h"
