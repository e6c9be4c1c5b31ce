// Functions of one, two and three elements.

// Within 2 units in the last place. The polynomial for 1/sqrt(2) <= 1 + z < sqrt(2) is that of Cephes' logf.
INLINE float logarithm_of(float x) {
    const int small = x < 1.17549435e-38f;  // denormal, zero or negative
    const uint32_t bits = bits_of(small ? x * 8388608.0f : x);
    const uint32_t shifted = bits - 0x3f3504f3u;  // of 1/sqrt(2)
    const float exponent = (float)((int32_t)shifted >> 23) - (small ? 23.0f : 0.0f);
    const float z = float_of((shifted & 0x007fffffu) + 0x3f3504f3u) - 1.0f;
    float q = 7.0376836292e-2f;
    q = q * z - 1.1514610310e-1f;
    q = q * z + 1.1676998740e-1f;
    q = q * z - 1.2420140846e-1f;
    q = q * z + 1.4249322787e-1f;
    q = q * z - 1.6668057665e-1f;
    q = q * z + 2.0000714765e-1f;
    q = q * z - 2.4999993993e-1f;
    q = q * z + 3.3333331174e-1f;
    const float rest = q * z * z * z - exponent * 2.12194440e-4f - 0.5f * z * z;
    const float found = exponent * 0.693359375f + (z + rest);
    return x < 0 || x != x ? NAN : x == 0 ? -INFINITY : x == INFINITY ? x : found;
}

// log(1 + exp(x)) = max(x, 0) + log(1 + u), u = exp(-|x|); what 1 + u rounds off counts where u is small.
INLINE float softplus_of(float x) {
    const float u = exp_of(-magnitude(x)), sum = 1.0f + u;
    return at_least(0.0f, x) + (logarithm_of(sum) + (u - (sum - 1.0f)) / sum);
}

#define FAST_KINDS(ONE) ONE(EXP, exp_all) ONE(SIGMOID, sigmoid_all) ONE(TANH, tanh_all)

#define OTHER_KINDS(ONE)                                                                                     \
    ONE(RELU, x > 0 || x != x ? x : 0)                                                                       \
    ONE(NEGATIVE, -x)                                                                                        \
    ONE(ABSOLUTE, fabsf(x))                                                                                  \
    ONE(SQUARE_ROOT, sqrtf(x))                                                                               \
    ONE(RECIPROCAL, 1 / x)                                                                                   \
    ONE(LOGARITHM, logarithm_of(x))                                                                                  \
    ONE(SINE, sinf(x))                                                                                       \
    ONE(COSINE, cosf(x))                                                                                     \
    ONE(ERROR_FUNCTION, erff(x))                                                                             \
    ONE(FLOOR, floorf(x))                                                                                    \
    ONE(CEILING, ceilf(x))                                                                                   \
    ONE(ROUND, nearbyintf(x))                                                                                \
    ONE(SIGN, (float)(x > 0) - (float)(x < 0))                                                               \
    ONE(CLIP, x < alpha ? alpha : x > beta ? beta : x)                                                       \
    ONE(LEAKY_RELU, x < 0 ? alpha * x : x)                                                                   \
    ONE(ELU, x < 0 ? alpha * expm1f(x) : x)                                                                  \
    ONE(SELU, x > 0 ? beta * x : beta * alpha * expm1f(x))                                                   \
    ONE(THRESHOLDED_RELU, x > alpha || x != x ? x : 0)                                                       \
    ONE(HARD_SIGMOID, at_most(1, at_least(0, alpha * x + beta)))                                             \
    ONE(HARD_SWISH, x * at_most(1, at_least(0, x / 6 + 0.5f)))                                               \
    ONE(SOFTPLUS, softplus_of(x))                                                                            \
    ONE(SOFTSIGN, x / (1 + fabsf(x)))                                                                        \
    ONE(GELU, 0.5f * x * (1 + erff(x * 0.70710678118654752f)))                                               \
    ONE(GELU_BY_TANH, 0.5f * x * (1 + tanh_of(0.79788456080286536f * (x + 0.044715f * x * x * x))))

#define NAMED(name, ...) UNARY_##name,
enum { FAST_KINDS(NAMED) OTHER_KINDS(NAMED) UNARY_COUNT };
#undef NAMED
#define UNARY_KINDS(ONE) FAST_KINDS(ONE) OTHER_KINDS(ONE)

// [y, x, kind, count, alpha, beta]; float32, contiguous.
static int64_t run_unary(operands given) {
    float *restrict out = PLACE(float, 0);
    const float *restrict in = PLACE(const float, 1);
    const int64_t count = NUMBER(3);
    const float alpha = real_of(NUMBER(4)), beta = real_of(NUMBER(5));
    switch (NUMBER(2)) {
#define CASE(name, function) \
    case UNARY_##name: function(out, in, count); break;
        FAST_KINDS(CASE)
#undef CASE
#define CASE(name, result)                                \
    case UNARY_##name:                                    \
        for (int64_t i = 0; i < count; i++) {             \
            const float x = in[i];                        \
            out[i] = (result);                            \
        }                                                 \
        break;
        OTHER_KINDS(CASE)
#undef CASE
    }
    return 0;
}

// Two operands whose outer axes turn; the last axis goes by steps of their own, and the one before it from row to row.
#define ALONG(step_a, step_b, result)                                                                        \
    for (int64_t i = 0; i < length; i++) {                                                                   \
        __auto_type a = p[i * (step_a)];                                                                     \
        __auto_type b = q[i * (step_b)];                                                                     \
        (void)a, (void)b;                                                                                    \
        y[i] = (result);                                                                                     \
    }
#define PAIRS(type, result_type, loops)                                                                      \
    {                                                                                                        \
        result_type *out = PLACE(result_type, 0);                                                            \
        const type *in0 = PLACE(const type, 1), *in1 = PLACE(const type, 2);                                 \
        do {                                                                                                 \
            const type *restrict p = in0 + offsets[0], *restrict q = in1 + offsets[1];                       \
            for (int64_t row = 0; row < rows; row++, out += length, p += row0, q += row1) {                  \
                result_type *restrict y = out;                                                               \
                loops                                                                                        \
            }                                                                                                \
        } while (turned(&at, offsets, strides, 2, axes));                                                    \
    }                                                                                                        \
    break;
// For floats the usual steps, 0 and 1, have loops of their own, which become vector code; whole numbers are few.
#define REALS(result_type, result)                                                                           \
    PAIRS(float, result_type,                                                                                \
          if (step0 == 1 && step1 == 1) ALONG(1, 1, result) else if (step0 == 1 && step1 == 0) ALONG(1, 0, result) \
          else if (step0 == 0 && step1 == 1) ALONG(0, 1, result) else ALONG(step0, step1, result))
#define WHOLES(type, result_type, result) PAIRS(type, result_type, ALONG(step0, step1, result))

#define PAIR_OPERANDS                                                                                        \
    const int64_t type = NUMBER(4), axes = NUMBER(5);                                                        \
    const int64_t *sizes = given.word + 6, *strides = sizes + axes;                                          \
    const int64_t length = sizes[axes - 1], step0 = strides[axes - 1], step1 = strides[2 * axes - 1];        \
    const int64_t rows = axes > 1 ? sizes[axes - 2] : 1;                                                     \
    const int64_t row0 = axes > 1 ? strides[axes - 2] : 0, row1 = axes > 1 ? strides[2 * axes - 2] : 0;      \
    odometer at = odometer_over(axes > 1 ? axes - 2 : 0, sizes);                                             \
    int64_t offsets[2] = {0, 0}

static inline int64_t quotient_of(int64_t a, int64_t b) { return b == -1 ? (int64_t)(0 - (uint64_t)a) : a / b; }
static inline int64_t remainder_of(int64_t a, int64_t b) {  // has the divisor's sign
    int64_t left = b == -1 ? 0 : a % b;
    return left && (left < 0) != (b < 0) ? left + b : left;
}

#define BINARY_KINDS(ONE)                                                            \
    ONE(ADD, a + b, a + b)                                                           \
    ONE(SUBTRACT, a - b, a - b)                                                      \
    ONE(MULTIPLY, a * b, a * b)                                                      \
    ONE(DIVIDE, a / b, quotient_of(a, b))                                            \
    ONE(MINIMUM, a < b || a != a ? a : b, a < b ? a : b)                             \
    ONE(MAXIMUM, a > b || a != a ? a : b, a > b ? a : b)                             \
    ONE(POWER, b == 2 ? a * a : powf(a, b), b == 2 ? a * a : 0)                      \
    ONE(MODULO, fmodf(a, b), remainder_of(a, b))                                     \
    ONE(AND, 0, a & b)                                                               \
    ONE(OR, 0, a | b)                                                                \
    ONE(XOR, 0, a ^ b)

#define NAMED(name, ...) BINARY_##name,
enum { BINARY_KINDS(NAMED) BINARY_COUNT };
#undef NAMED

// [y, a, b, kind, type, axes, sizes ..., strides of a ..., strides of b ...]
static int64_t run_binary(operands given) {
    const int64_t kind = NUMBER(3);
    PAIR_OPERANDS;
    if (type != FLOAT32 && (kind == BINARY_DIVIDE || kind == BINARY_MODULO)) {
        odometer look = odometer_over(axes, sizes);
        int64_t looked[1] = {0};
        do {
            const void *divisors = PLACE(const void, 2);
            if (index_at(divisors, type, looked[0]) == 0) return DIVISION_BY_ZERO;
        } while (turned(&look, looked, strides + axes, 1, axes));
    }
    switch (kind * 4 + type) {
#define CASE(name, real, whole)                                       \
    case BINARY_##name * 4 + FLOAT32: REALS(float, real)              \
    case BINARY_##name * 4 + INT64: WHOLES(int64_t, int64_t, whole)   \
    case BINARY_##name * 4 + INT32: WHOLES(int32_t, int32_t, whole)   \
    case BINARY_##name * 4 + BOOL: WHOLES(uint8_t, uint8_t, whole)
        BINARY_KINDS(CASE)
#undef CASE
    }
    return 0;
}

#define COMPARE_KINDS(ONE)   \
    ONE(EQUAL, a == b)       \
    ONE(LESS, a < b)         \
    ONE(LESS_OR_EQUAL, a <= b) \
    ONE(GREATER, a > b)      \
    ONE(GREATER_OR_EQUAL, a >= b)

#define NAMED(name, ...) COMPARE_##name,
enum { COMPARE_KINDS(NAMED) COMPARE_COUNT };
#undef NAMED

// As `binary`; y is of booleans.
static int64_t run_compare(operands given) {
    const int64_t kind = NUMBER(3);
    PAIR_OPERANDS;
    switch (kind * 4 + type) {
#define CASE(name, result)                                             \
    case COMPARE_##name * 4 + FLOAT32: REALS(uint8_t, result)          \
    case COMPARE_##name * 4 + INT64: WHOLES(int64_t, uint8_t, result)  \
    case COMPARE_##name * 4 + INT32: WHOLES(int32_t, uint8_t, result)  \
    case COMPARE_##name * 4 + BOOL: WHOLES(uint8_t, uint8_t, result)
        COMPARE_KINDS(CASE)
#undef CASE
    }
    return 0;
}

// [y, x, count]
static int64_t run_not(operands given) {
    uint8_t *y = PLACE(uint8_t, 0);
    const uint8_t *x = PLACE(const uint8_t, 1);
    for (int64_t i = 0; i < NUMBER(2); i++) y[i] = !x[i];
    return 0;
}

// [y, condition, a, b, bytes an element, axes, sizes ..., strides of condition ..., of a ..., of b ...]
static int64_t run_where(operands given) {
    const uint8_t *condition = PLACE(const uint8_t, 1);
    const int64_t bytes = NUMBER(4), axes = NUMBER(5);
    const int64_t *sizes = given.word + 6, *strides = sizes + axes;
    const int64_t length = sizes[axes - 1], step = strides[axes - 1], step0 = strides[2 * axes - 1], step1 = strides[3 * axes - 1];
    odometer at = odometer_over(axes - 1, sizes);
    int64_t offsets[3] = {0, 0, 0};
#define CHOICE(type)                                                                                         \
    {                                                                                                        \
        type *out = PLACE(type, 0);                                                                          \
        const type *a = PLACE(const type, 2), *b = PLACE(const type, 3);                                     \
        do {                                                                                                 \
            const uint8_t *c = condition + offsets[0];                                                       \
            const type *restrict p = a + offsets[1], *restrict q = b + offsets[2];                           \
            type *restrict y = out;                                                                          \
            if (step == 0 && step0 == 1 && step1 == 1) {                                                     \
                memcpy(y, *c ? p : q, (size_t)length * sizeof(type));                                        \
            } else {                                                                                         \
                for (int64_t i = 0; i < length; i++) y[i] = c[i * step] ? p[i * step0] : q[i * step1];       \
            }                                                                                                \
            out += length;                                                                                   \
        } while (turned(&at, offsets, strides, 3, axes));                                                    \
    }                                                                                                        \
    break
    switch (bytes) {
        case 1: CHOICE(uint8_t);
        case 4: CHOICE(uint32_t);
        default: CHOICE(uint64_t);
    }
#undef CHOICE
    return 0;
}

// [y, x, type of y, type of x, count]
static int64_t run_cast(operands given) {
    const int64_t count = NUMBER(4);
    switch (NUMBER(2) * 4 + NUMBER(3)) {
#define CONVERT(to, from, to_type, from_type, result)                                             \
    case to * 4 + from: {                                                                         \
        to_type *y = PLACE(to_type, 0);                                                           \
        const from_type *in = PLACE(const from_type, 1);                                          \
        for (int64_t i = 0; i < count; i++) {                                                     \
            const from_type x = in[i];                                                            \
            y[i] = (to_type)(result);                                                             \
        }                                                                                         \
        break;                                                                                    \
    }
#define CONVERT_TO(to, to_type)                       \
    CONVERT(to, FLOAT32, to_type, float, x)           \
    CONVERT(to, INT64, to_type, int64_t, x)           \
    CONVERT(to, INT32, to_type, int32_t, x)           \
    CONVERT(to, BOOL, to_type, uint8_t, x)
        CONVERT_TO(FLOAT32, float)
        CONVERT_TO(INT64, int64_t)
        CONVERT_TO(INT32, int32_t)
        CONVERT(BOOL, FLOAT32, uint8_t, float, x != 0)
        CONVERT(BOOL, INT64, uint8_t, int64_t, x != 0)
        CONVERT(BOOL, INT32, uint8_t, int32_t, x != 0)
        CONVERT(BOOL, BOOL, uint8_t, uint8_t, x)
#undef CONVERT_TO
#undef CONVERT
    }
    return 0;
}
