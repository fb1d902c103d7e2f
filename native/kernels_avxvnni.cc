#ifndef RUNOFF_EMULATE
#include <immintrin.h>
#endif

#define RUNOFF_NAME "avxvnni"
#define RUNOFF_TABLE avxvnni_kernels
#define RUNOFF_LANES 8
#define RUNOFF_ROWS 6
#define RUNOFF_PANELS 1
#define RUNOFF_BYTE_FORM ByteForm::u8s8
#define RUNOFF_FAST_I16 true
#define RUNOFF_FAST_I8 true
#include "kernels_impl.h"
