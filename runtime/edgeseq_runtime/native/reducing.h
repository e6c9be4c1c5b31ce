// What goes over an axis: sums, maxima, softmax, normalisation. Data is (outer, n, inner), contiguous.

#define REDUCE_KINDS(ONE) \
    ONE(SUM) ONE(MEAN) ONE(MAXIMUM) ONE(MINIMUM) ONE(PRODUCT) ONE(SQUARES) ONE(LENGTH) ONE(ABSOLUTE) ONE(LOG_OF_SUM_OF_EXPONENTIALS)

#define NAMED(name, ...) REDUCE_##name,
enum { REDUCE_KINDS(NAMED) REDUCE_COUNT };
#undef NAMED

typedef float four __attribute__((vector_size(16)));

// Partial sums: 16 with vectors of any width, since fewer would round more often in a long sum, and wait for each other.
#define CHAINS (16 / LANES)
typedef union {
    floats chain[CHAINS];
    four part[4];
} partial;

static inline float sum_of(partial sums) {
    for (int i = 1; i < 4; i++) sums.part[0] += sums.part[i];
    return (sums.part[0][0] + sums.part[0][2]) + (sums.part[0][1] + sums.part[0][3]);
}

static inline float sum_over(const float *x, int64_t n) {
    partial sums = {{{0}}};
    float sum = 0;
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        UNROLLED
        for (int c = 0; c < CHAINS; c++) sums.chain[c] += load(x + i + c * LANES);
    for (; i + LANES <= n; i += LANES) sums.chain[0] += load(x + i);
    for (; i < n; i++) sum += x[i];
    return sum + sum_of(sums);
}

static inline float dot_over(const float *a, const float *b, int64_t n) {
    partial sums = {{{0}}};
    float sum = 0;
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        UNROLLED
        for (int c = 0; c < CHAINS; c++) sums.chain[c] += load(a + i + c * LANES) * load(b + i + c * LANES);
    for (; i + LANES <= n; i += LANES) sums.chain[0] += load(a + i) * load(b + i);
    for (; i < n; i++) sum += a[i] * b[i];
    return sum + sum_of(sums);
}

#if defined(__clang__)
#define CHOSEN(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
typedef int32_t four_indices __attribute__((vector_size(16)));
#define CHOSEN(a, b, i, j, k, l) __builtin_shuffle(a, b, (four_indices){i, j, k, l})
#endif

// Products of a and the rows at b, `stride` apart: four at a time, whose sums end together. For rows too short for whole vectors.
static void short_dots(float *y, const float *a, const float *b, int64_t stride, int64_t rows, int64_t n) {
    typedef four __attribute__((aligned(4), may_alias)) four_anywhere;
    int64_t row = 0;
    for (; row + 4 <= rows; row += 4, b += 4 * stride) {
        four part[4] = {{0}};
        int64_t i = 0;
        for (; i + 4 <= n; i += 4) {
            const four with = *(const four_anywhere *)(a + i);
            for (int64_t r = 0; r < 4; r++) part[r] += with * *(const four_anywhere *)(b + r * stride + i);
        }
        const four first = CHOSEN(part[0], part[1], 0, 4, 1, 5) + CHOSEN(part[0], part[1], 2, 6, 3, 7);
        const four second = CHOSEN(part[2], part[3], 0, 4, 1, 5) + CHOSEN(part[2], part[3], 2, 6, 3, 7);
        four sums = CHOSEN(first, second, 0, 1, 4, 5) + CHOSEN(first, second, 2, 3, 6, 7);
        for (; i < n; i++) sums += a[i] * (four){b[i], b[stride + i], b[2 * stride + i], b[3 * stride + i]};
        *(four_anywhere *)(y + row) = sums;
    }
    for (; row < rows; row++, b += stride) y[row] = dot_over(a, b, n);
}

// The greatest, NaN where one is: NaN stays because nothing is greater than it.
static inline float greatest_over(const float *x, int64_t n) {
    float most[LANES];
    for (int64_t w = 0; w < LANES; w++) most[w] = x[w < n ? w : 0];
    for (int64_t i = LANES; i < n; i += LANES)
        for (int64_t w = 0; w < LANES; w++) {
            const float one = x[i + w < n ? i + w : i];
            most[w] = one > most[w] || one != one ? one : most[w];
        }
    for (int64_t w = 1; w < LANES; w++) most[0] = most[w] > most[0] || most[w] != most[w] ? most[w] : most[0];
    return most[0];
}

static float reduced(const float *x, int64_t n, int64_t stride, int64_t kind) {
    double sum = 0;
    float result = x[0];
    switch (kind) {
        case REDUCE_SUM:
        case REDUCE_MEAN:
            if (stride == 1) sum = sum_over(x, n);
            else for (int64_t i = 0; i < n; i++) sum += x[i * stride];
            return (float)(kind == REDUCE_MEAN ? sum / n : sum);
        case REDUCE_SQUARES:
        case REDUCE_LENGTH:
            if (stride == 1) sum = dot_over(x, x, n);
            else for (int64_t i = 0; i < n; i++) sum += x[i * stride] * x[i * stride];
            return kind == REDUCE_LENGTH ? sqrtf((float)sum) : (float)sum;
        case REDUCE_ABSOLUTE:
            for (int64_t i = 0; i < n; i++) sum += fabsf(x[i * stride]);
            return (float)sum;
        case REDUCE_MAXIMUM:
            for (int64_t i = 1; i < n; i++) {
                const float one = x[i * stride];
                result = one > result || one != one ? one : result;
            }
            return result;
        case REDUCE_MINIMUM:
            for (int64_t i = 1; i < n; i++) {
                const float one = x[i * stride];
                result = one < result || one != one ? one : result;
            }
            return result;
        case REDUCE_PRODUCT:
            for (int64_t i = 1; i < n; i++) result *= x[i * stride];
            return result;
        default:
            for (int64_t i = 1; i < n; i++) result = fmaxf(result, x[i * stride]);
            if (isinf(result)) return result;
            for (int64_t i = 0; i < n; i++) sum += expf(x[i * stride] - result);
            return result + logf((float)sum);
    }
}

static int64_t whole_reduced(const void *x, int64_t type, int64_t n, int64_t first, int64_t stride, int64_t kind) {
    int64_t result = index_at(x, type, first);
    for (int64_t i = 1; i < n; i++) {
        int64_t one = index_at(x, type, first + i * stride);
        result = kind == REDUCE_SUM ? result + one : kind == REDUCE_PRODUCT ? result * one
               : kind == REDUCE_MAXIMUM ? (one > result ? one : result) : (one < result ? one : result);
    }
    return result;
}

// [y, x, kind, type, outer, n, inner]
static int64_t run_reduce(operands given) {
    const int64_t kind = NUMBER(2), type = NUMBER(3), outer = NUMBER(4), n = NUMBER(5), inner = NUMBER(6);
    for (int64_t o = 0; o < outer; o++) {
        for (int64_t i = 0; i < inner; i++) {
            const int64_t at = o * inner + i, first = o * n * inner + i;
            if (type == FLOAT32) PLACE(float, 0)[at] = reduced(PLACE(const float, 1) + first, n, inner, kind);
            else if (type == INT64) PLACE(int64_t, 0)[at] = whole_reduced(PLACE(const void, 1), type, n, first, inner, kind);
            else PLACE(int32_t, 0)[at] = (int32_t)whole_reduced(PLACE(const void, 1), type, n, first, inner, kind);
        }
    }
    return 0;
}

// [y (int64), x (float32), largest rather than smallest, last of equals, outer, n, inner]
static int64_t run_argument(operands given) {
    int64_t *y = PLACE(int64_t, 0);
    const float *x = PLACE(const float, 1);
    const int64_t largest = NUMBER(2), last = NUMBER(3), outer = NUMBER(4), n = NUMBER(5), inner = NUMBER(6);
    for (int64_t o = 0; o < outer; o++) {
        for (int64_t i = 0; i < inner; i++) {
            const float *from = x + o * n * inner + i;
            int64_t best = 0;
            for (int64_t k = 1; k < n; k++) {
                float one = from[k * inner], held = from[best * inner];
                if ((largest ? one > held : one < held) || (last && one == held)) best = k;
            }
            y[o * inner + i] = best;
        }
    }
    return 0;
}

// [values, numbers (int64), x (float32), largest rather than smallest, how many, outer, n, inner]: best first, the earlier of
// equals.
static int64_t run_best(operands given) {
    float *values = PLACE(float, 0);
    int64_t *numbers = PLACE(int64_t, 1);
    const float *x = PLACE(const float, 2);
    const int64_t largest = NUMBER(3), many = NUMBER(4), outer = NUMBER(5), n = NUMBER(6), inner = NUMBER(7);
    for (int64_t o = 0; o < outer; o++) {
        for (int64_t i = 0; i < inner; i++) {
            float *best = values + o * many * inner + i;
            int64_t *number = numbers + o * many * inner + i;
            for (int64_t k = 0; k < n; k++) {
                const float one = x[(o * n + k) * inner + i];
                int64_t at = k < many ? k : many;  // moves up from the end of those held
                for (; at > 0; at--) {
                    const float held = best[(at - 1) * inner];
                    if (!(largest ? one > held : one < held)) break;
                    if (at < many) best[at * inner] = held, number[at * inner] = number[(at - 1) * inner];
                }
                if (at < many) best[at * inner] = one, number[at * inner] = k;
            }
        }
    }
    return 0;
}

// [y, x, type, outer, n, inner]
static int64_t run_running_sum(operands given) {
    const int64_t type = NUMBER(2), outer = NUMBER(3), n = NUMBER(4), inner = NUMBER(5);
#define RUNNING(kind)                                                                             \
    {                                                                                             \
        kind *y = PLACE(kind, 0);                                                                 \
        const kind *x = PLACE(const kind, 1);                                                     \
        for (int64_t o = 0; o < outer; o++)                                                       \
            for (int64_t k = 0; k < n; k++)                                                       \
                for (int64_t i = 0; i < inner; i++) {                                             \
                    const int64_t at = (o * n + k) * inner + i;                                   \
                    y[at] = x[at] + (k ? y[at - inner] : 0);                                      \
                }                                                                                 \
    }
    if (type == FLOAT32) RUNNING(float)
    else if (type == INT64) RUNNING(int64_t)
    else RUNNING(int32_t)
#undef RUNNING
    return 0;
}

// [y, x, logarithm of it, outer, n, inner]
static int64_t run_softmax(operands given) {
    float *y = PLACE(float, 0);
    const float *x = PLACE(const float, 1);
    const int64_t logarithm = NUMBER(2), outer = NUMBER(3), n = NUMBER(4), inner = NUMBER(5);
    for (int64_t o = 0; o < outer; o++, x += n * inner, y += n * inner) {
        for (int64_t i = 0; i < inner; i++) {
            const float most = inner == 1 ? greatest_over(x, n) : reduced(x + i, n, inner, REDUCE_MAXIMUM);
            float sum = 0;
            if (inner == 1) {
                for (int64_t k = 0; k < n; k++) y[k] = x[k] - most;
                if (logarithm) {
                    for (int64_t k = 0; k < n; k++) sum += expf(y[k]);
                } else {
                    exp_all(y, y, n);
                    sum = sum_over(y, n);
                }
            } else {
                for (int64_t k = 0; k < n; k++) {
                    const float one = x[k * inner + i] - most, power = exp_of(one);
                    y[k * inner + i] = logarithm ? one : power;
                    sum += power;
                }
            }
            const float scale = logarithm ? logf(sum) : 1 / sum;
            for (int64_t k = 0; k < n; k++) y[k * inner + i] = logarithm ? y[k * inner + i] - scale : y[k * inner + i] * scale;
        }
    }
    return 0;
}

// [y, x, scale, bias or none, rows, n, epsilon]
static int64_t run_layer_normalization(operands given) {
    float *restrict y = PLACE(float, 0);
    const float *restrict x = PLACE(const float, 1);
    const float *restrict scale = PLACE(const float, 2), *restrict bias = PLACE(const float, 3);
    const int64_t rows = NUMBER(4), n = NUMBER(5);
    const float epsilon = real_of(NUMBER(6));
    for (int64_t row = 0; row < rows; row++, x += n, y += n) {
        const float mean = sum_over(x, n) / n;
        for (int64_t i = 0; i < n; i++) y[i] = x[i] - mean;
        const float by = 1 / sqrtf(dot_over(y, y, n) / n + epsilon);
        if (bias) for (int64_t i = 0; i < n; i++) y[i] = y[i] * by * scale[i] + bias[i];
        else for (int64_t i = 0; i < n; i++) y[i] = y[i] * by * scale[i];
    }
    return 0;
}
