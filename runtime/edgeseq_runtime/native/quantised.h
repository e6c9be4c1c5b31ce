/* Products with weights of 8 or 4 bits: y = start + scale of x * scales of W * (x W in integers), for one row as for thousands.
 *
 * x is rounded to -127..127 when it is multiplied: each row, and each block of a row, by itself, so that a row's result depends on
 * no other. Integers are summed in 32 bits and nothing saturates: every processor has the same sums.
 *
 * Packed weights are panels of PANEL outputs, which are read from the first byte to the last. A panel has its blocks of inputs one
 * after the other: the weights, in groups of 4 inputs (4 bits: of 8) of one output after the other, then for each output the scale
 * and the sum of the block's weights. A group of 4 bits has its first 4 inputs in the lower halves of its bytes.
 */
#ifndef EDGESEQ_QUANTISED_H
#define EDGESEQ_QUANTISED_H

#include "recurrent.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef ints ints_anywhere __attribute__((aligned(4), may_alias));
typedef int8_t bytes __attribute__((vector_size(4 * LANES)));
typedef bytes bytes_anywhere __attribute__((aligned(1), may_alias));

INLINE bytes load_bytes(const int8_t *from) { return *(const bytes_anywhere *)from; }
INLINE ints load_ints(const int32_t *from) { return *(const ints_anywhere *)from; }
INLINE ints every(int32_t value) { return value - (ints){0}; }

/* sums[n] += products of the 4 bytes in x with the bytes 4 n to 4 n + 3 of the weights. x's are from -127 to 127, plus OFFSET. */
#if defined(EDGESEQ_PORTABLE)
#define PLAIN_PRODUCTS
#elif defined(__AVX512VNNI__) && LANES == 16
#define OFFSET 128
INLINE ints four_products(ints sums, ints x, bytes weights) {
    return (ints)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)x, (__m512i)weights);
}
#elif defined(__AVXVNNI__) && LANES == 8
#define OFFSET 128
INLINE ints four_products(ints sums, ints x, bytes weights) {
    return (ints)_mm256_dpbusd_avx_epi32((__m256i)sums, (__m256i)x, (__m256i)weights);
}
#elif defined(__AVX2__) && LANES == 8
/* Magnitudes of weights are at most 128, and two products at most 2 * 128 * 127 < 2^15. */
INLINE ints four_products(ints sums, ints x, bytes weights) {
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8((__m256i)weights), _mm256_sign_epi8((__m256i)x, (__m256i)weights));
    return sums + (ints)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}
#elif defined(__ARM_FEATURE_DOTPROD) && LANES == 4
INLINE ints four_products(ints sums, ints x, bytes weights) {
    return (ints)vdotq_s32((int32x4_t)sums, (int8x16_t)weights, (int8x16_t)x);
}
#else
#define PLAIN_PRODUCTS
#endif

#if defined(PLAIN_PRODUCTS)
typedef int16_t halves __attribute__((vector_size(4 * LANES)));
/* Two products of a byte with a byte have room in 16 bits, as long as one is at least -127. */
INLINE ints four_products(ints sums, ints x, bytes weights) {
    halves w = (halves)weights, by = (halves)x;
    ints pairs = (ints)(((w << 8) >> 8) * ((by << 8) >> 8) + (w >> 8) * (by >> 8));
    return sums + ((ints)(pairs << 16) >> 16) + (pairs >> 16);
}
#endif
#ifndef OFFSET
#define OFFSET 0
#endif

/* ---- rows of x as integers */

/* Rows that are rounded at once: their integers stay in the nearest cache but one while the panels go by. */
#define QUANTISED_ROWS 48
/* How many times as fast as a product of floats: what is worth sharing among threads is as much larger. */
#define FASTER 4
/* Less than this counts as zero: its inverse may be no float. */
#define LEAST 1e-30f

INLINE int64_t whole_groups(int64_t n) { return (n + 3) / 4 * 4; }
INLINE int64_t whole_lines(int64_t n) { return (n + 63) / 64 * 64; }

/* One matrix, or a part of one whose panels have several: `stride` bytes from one panel's to the next one's. */
typedef struct {
    const char *panels;
    int64_t stride, K, size, blocks, bits; /* inputs of a block: a multiple of 4, of 8 where bits are 4 */
} integer_part;

/* Bytes from one rounded row to the next: the integers, of which those past the last input meet weights of zero; a unit a block. */
INLINE int64_t rounded_row(int64_t size, int64_t blocks) { return whole_lines(size * blocks + 4 * blocks); }

static integer_part integer_part_of(const char *panels, int64_t stride, int64_t K, int64_t size, int64_t bits) {
    return (integer_part){panels, stride, K, size, (K + size - 1) / size, bits};
}

INLINE int64_t part_bytes(int64_t K, int64_t size, int64_t bits) {
    return (K + size - 1) / size * PANEL * (size * bits / 8 + 8);
}

/* The unit of the integers; where x has a NaN or an infinity that is a NaN, which makes one of every result. */
static float round_block(uint8_t *restrict to, const float *restrict x, int64_t inputs) {
    uint32_t bits = 0;
    for (int64_t k = 0; k < inputs; k++) {
        /* As integers, so that a NaN is the greatest of all. */
        uint32_t one = bits_of(x[k]) & 0x7fffffffu;
        bits = one > bits ? one : bits;
    }
    float most = float_of(bits);
    if (!(most < INFINITY)) return NAN;
    float by = most < LEAST ? 0.0f : 127.0f / most;
    const float shift = 12582912.0f; /* leaves the nearest integer in the low bits, see power_of */
    for (int64_t k = 0; k < inputs; k++) to[k] = (uint8_t)(bits_of(x[k] * by + shift) + OFFSET);
    return most < LEAST ? 0.0f : most / 127.0f;
}

static void round_rows(uint8_t *to, const integer_part *of, const float *x, int64_t x_stride, int64_t rows) {
    int64_t row = rounded_row(of->size, of->blocks);
    for (int64_t r = 0; r < rows; r++, to += row, x += x_stride) {
        float *scales = (float *)(to + of->size * of->blocks);
        for (int64_t b = 0; b < of->blocks; b++) {
            int64_t k = b * of->size, inputs = of->K - k < of->size ? of->K - k : of->size;
            scales[b] = round_block(to + k, x + k, inputs);
        }
    }
}

/* ---- products */

/* Rows that are calculated together. */
#if defined(__AVX512F__) || defined(__aarch64__)
#define INTEGER_ROWS 6
#else
#define INTEGER_ROWS 2
#endif

/* One vector of outputs and what a block adds to it. */
INLINE floats with_block(floats start, ints sums, floats scales, float unit) {
    floats scale = scales * unit;
    return start + __builtin_convertvector(sums, floats) * scale;
}

INLINE ints four_inputs(const uint8_t *x) {
    int32_t four;
    memcpy(&four, x, 4);
    return every(four);
}

/* One block of one panel onto y. `rows`, `bits` and `chains`, an output's partial sums, are constants where this is inlined. */
INLINE void integer_block(const int rows, const int bits, const int chains, float *y, int64_t y_stride, const float *start,
                          int64_t start_stride, const uint8_t *x, int64_t x_row, const float *unit, const int8_t *weights,
                          int64_t size) {
    const int groups = bits == 4 ? 2 : 1;
    const int8_t *after = weights + size * PANEL * bits / 8;
    const float *scales = (const float *)after;
    const int32_t *totals = (const int32_t *)(after + 4 * PANEL);
    ints sums[INTEGER_ROWS][2 * VECTORS];
    UNROLLED
    for (int r = 0; r < rows; r++)
        UNROLLED
        for (int v = 0; v < VECTORS * chains; v++) sums[r][v] = v < VECTORS ? load_ints(totals + v * LANES) * -OFFSET : every(0);
    int64_t k = 0;
    for (; k + 4 * groups * chains <= size; k += 4 * groups * chains) {
        UNROLLED
        for (int c = 0; c < chains; c++)
            UNROLLED
            for (int v = 0; v < VECTORS; v++) {
                const int8_t *from = weights + (k / (4 * groups) + c) * 4 * PANEL + v * 4 * LANES;
                bytes both = load_bytes(from);
                UNROLLED
                for (int g = 0; g < groups; g++) {
                    bytes one = both;
                    if (bits == 4) one = (bytes)((g ? (ints)both >> 4 : (ints)both) & 0x0f0f0f0f) - 8;
                    UNROLLED
                    for (int r = 0; r < rows; r++) {
                        ints *sum = &sums[r][c * VECTORS + v];
                        *sum = four_products(*sum, four_inputs(x + r * x_row + k + 4 * (c * groups + g)), one);
                    }
                }
            }
    }
    if (chains > 1 && k < size) /* one group is left, of 8 bits */
        UNROLLED
        for (int v = 0; v < VECTORS; v++)
            UNROLLED
            for (int r = 0; r < rows; r++) {
                bytes one = load_bytes(weights + k * PANEL + v * 4 * LANES);
                sums[r][v] = four_products(sums[r][v], four_inputs(x + r * x_row + k), one);
            }
    UNROLLED
    for (int r = 0; r < rows; r++) {
        float by = *(const float *)((const char *)unit + r * x_row);
        UNROLLED
        for (int v = 0; v < VECTORS; v++) {
            ints sum = sums[r][v];
            UNROLLED
            for (int c = 1; c < chains; c++) sum += sums[r][c * VECTORS + v];
            floats before = load(start + r * start_stride + v * LANES);
            store(y + r * y_stride + v * LANES, with_block(before, sum, load(scales + v * LANES), by));
        }
    }
}

INLINE void integer_blocks(const int rows, const int bits, const int chains, float *y, int64_t y_stride, const float *start,
                           int64_t start_stride, const uint8_t *x, const integer_part *of, const char *panel) {
    int64_t row = rounded_row(of->size, of->blocks), bytes_each = part_bytes(of->size, of->size, bits);
    const float *scales = (const float *)(x + of->size * of->blocks);
    for (int64_t b = 0; b < of->blocks; b++) {
        integer_block(rows, bits, chains, y, y_stride, start, start_stride, x + b * of->size, row, scales + b,
                      (const int8_t *)panel + b * bytes_each, of->size);
        start = y, start_stride = y_stride;
    }
}

static void integer_tile(int rows, float *y, int64_t y_stride, const float *start, int64_t start_stride, const uint8_t *x,
                         const integer_part *of, const char *panel) {
#define ROWS(n, chains)                                                                                             \
    case n:                                                                                                         \
        if (of->bits == 4) integer_blocks(n, 4, chains, y, y_stride, start, start_stride, x, of, panel);            \
        else integer_blocks(n, 8, chains, y, y_stride, start, start_stride, x, of, panel);                          \
        break;
    switch (rows) {
        ROWS(1, 2) ROWS(2, 1)
#if INTEGER_ROWS == 6
        ROWS(3, 1) ROWS(4, 1) ROWS(5, 1) ROWS(6, 1)
#endif
    }
#undef ROWS
}

#if defined(__AMX_INT8__) && LANES == 16 && !defined(EDGESEQ_PORTABLE)
/* The processor's tiles: products of 16 rows by 64 inputs with 16 outputs at once. */
#define TILES
#define LEAST_TILE_ROWS 4

/* Whether the system lets this process use them, which has to be asked for: arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA). */
static int may_use_tiles(void) {
    static _Atomic int answer; /* 1: yes, 2: no */
    int known = atomic_load_explicit(&answer, memory_order_relaxed);
    if (!known) {
        int64_t result = 158;
        __asm__ volatile("syscall" : "+a"(result) : "D"(0x1023L), "S"(18L) : "rcx", "r11", "memory");
        known = result ? 2 : 1;
        atomic_store_explicit(&answer, known, memory_order_relaxed);
    }
    return known == 1;
}

/* All tiles of 16 rows by 64 bytes. */
static void begin_tiles(void) {
    struct {
        uint8_t palette, first_row, unused[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shape = {.palette = 1};
    for (int t = 0; t < 8; t++) shape.bytes[t] = 64, shape.rows[t] = 16;
    _tile_loadconfig(&shape);
}

/* Up to 16 rows of one panel, through a buffer: y = start + product. */
static void tiles_of_panel(int64_t rows, float *y, int64_t y_stride, const float *start, int64_t start_stride, const uint8_t *x,
                           const integer_part *of, const char *panel) {
    int64_t row = rounded_row(of->size, of->blocks), bytes_each = part_bytes(of->size, of->size, 8);
    const float *units = (const float *)(x + of->size * of->blocks);
    _Alignas(64) int32_t sums[16][PANEL];
    for (int64_t b = 0; b < of->blocks; b++) {
        const char *weights = panel + b * bytes_each, *after = weights + of->size * PANEL;
        const float *scales = (const float *)after;
        const int32_t *totals = (const int32_t *)(after + 4 * PANEL);
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        /* The instructions read memory, which compilers are not told. */
        __asm__ volatile("" ::: "memory");
        for (int64_t k = 0; k < of->size; k += 64) {
            _tile_loadd(4, x + b * of->size + k, row);
#define OUTPUTS(v, tile)                                                 \
    _tile_loadd(tile, weights + k * PANEL + v * 64, 4 * PANEL);          \
    _tile_dpbusd(v, 4, tile);
            OUTPUTS(0, 5)
            OUTPUTS(1, 6)
            OUTPUTS(2, 7)
            OUTPUTS(3, 5)
#undef OUTPUTS
        }
        _tile_stored(0, sums[0], 4 * PANEL);
        _tile_stored(1, sums[0] + 16, 4 * PANEL);
        _tile_stored(2, sums[0] + 32, 4 * PANEL);
        _tile_stored(3, sums[0] + 48, 4 * PANEL);
        __asm__ volatile("" ::: "memory");
        for (int64_t r = 0; r < rows; r++) {
            float unit = *(const float *)((const char *)(units + b) + r * row);
            for (int v = 0; v < VECTORS; v++) {
                ints sum = load_ints(sums[r] + v * LANES) - load_ints(totals + v * LANES) * OFFSET;
                floats before = load(start + r * start_stride + v * LANES);
                store(y + r * y_stride + v * LANES, with_block(before, sum, load(scales + v * LANES), unit));
            }
        }
        start = y, start_stride = y_stride;
    }
}
#endif

/* Rows that are there, or may be read as if they were. */
INLINE int64_t readable_rows(int64_t rows) { return rows < 4 ? rows : (rows + 15) / 16 * 16; }

INLINE int fits_tiles(const integer_part *of, int64_t rows) {
#if defined(TILES)
    return rows >= LEAST_TILE_ROWS && of->size % 64 == 0 && of->bits == 8 && may_use_tiles();
#else
    (void)of, (void)rows;
    return 0;
#endif
}

static void integer_rows(int64_t height, float *y, int64_t y_stride, const float *start, int64_t start_stride, const uint8_t *x,
                         const integer_part *of, const char *panel, int tiles) {
#if defined(TILES)
    if (tiles) {
        tiles_of_panel(height, y, y_stride, start, start_stride, x, of, panel);
        return;
    }
#endif
    (void)tiles;
    integer_tile((int)height, y, y_stride, start, start_stride, x, of, panel);
}

/* Rows of one panel, of which `outputs` are there. */
static void integer_panel(int64_t outputs, int64_t rows, float *y, int64_t y_stride, const float *start, int64_t start_stride,
                          const uint8_t *x, const integer_part *of, const char *panel) {
    int64_t row = rounded_row(of->size, of->blocks);
    int use_tiles = fits_tiles(of, rows);
    int64_t most = use_tiles ? 16 : INTEGER_ROWS, parts = (rows + most - 1) / most;
    for (int64_t r = 0; r < rows; parts--) {
        int64_t height = (rows - r + parts - 1) / parts;
        float *to = y + r * y_stride;
        const float *from = start + r * start_stride;
        if (outputs >= PANEL) {
            integer_rows(height, to, y_stride, from, start_stride, x + r * row, of, panel, use_tiles);
        } else { /* through a buffer, so that nothing else of y is touched */
            float part[16][PANEL] = {{0}};
            for (int i = 0; i < height; i++) memcpy(part[i], from + i * start_stride, outputs * sizeof(float));
            integer_rows(height, part[0], PANEL, part[0], PANEL, x + r * row, of, panel, use_tiles);
            for (int i = 0; i < height; i++) memcpy(to + i * y_stride, part[i], outputs * sizeof(float));
        }
        r += height;
    }
}

/* One factor of a product, with room for QUANTISED_ROWS rounded rows of it, or as many as there are. */
typedef struct {
    const float *x;
    int64_t x_stride;
    const integer_part *part;
    uint8_t *rounded;
} integer_factor;

/* y[r, :] = start[r, :] + sum over factors of x[r, :] W, for rows that are rounded. */
typedef struct {
    float *y;
    int64_t y_stride;
    const float *start;
    int64_t start_stride;
    const integer_factor *factors;
    int count;
    int64_t rows, N;
} integer_multiplication;

/* The panels of one share of the outputs, forwards and backwards in turn: where the weights exceed the cache, what was read last is
 * read first. */
static void integer_share(const void *job, int64_t share, int64_t shares) {
    const integer_multiplication *of = job;
    int64_t panels = (of->N + PANEL - 1) / PANEL, begin = panels * share / shares, stop = panels * (share + 1) / shares;
    const integer_part *first = of->factors[0].part;
    int backwards = is_backwards((const float *)(first->panels + begin * first->stride));
#if defined(TILES)
    int tiles = 0;
    for (int f = 0; f < of->count; f++) tiles |= fits_tiles(of->factors[f].part, of->rows);
    if (tiles) begin_tiles();
#endif
    for (int64_t i = begin; i < stop; i++) {
        int64_t p = backwards ? stop - 1 - (i - begin) : i, n = p * PANEL;
        for (int f = 0; f < of->count; f++) {
            const integer_part *part = of->factors[f].part;
            float *y = of->y + n;
            const float *start = f ? y : of->start + n;
            int64_t start_stride = f ? of->y_stride : of->start_stride;
            integer_panel(of->N - n, of->rows, y, of->y_stride, start, start_stride, of->factors[f].rounded, part,
                          part->panels + p * part->stride);
        }
    }
#if defined(TILES)
    if (tiles) _tile_release();
#endif
}

static void integer_products(float *y, int64_t y_stride, const float *start, int64_t start_stride, const integer_factor *factors,
                             int count, int64_t rows, int64_t N) {
    int64_t panels = (N + PANEL - 1) / PANEL, inputs = 0;
    for (int f = 0; f < count; f++) inputs += factors[f].part->K;
    for (int64_t r = 0; r < rows; r += QUANTISED_ROWS) {
        int64_t height = rows - r < QUANTISED_ROWS ? rows - r : QUANTISED_ROWS, work = height * inputs * N;
        for (int f = 0; f < count; f++)
            round_rows(factors[f].rounded, factors[f].part, factors[f].x + r * factors[f].x_stride, factors[f].x_stride, height);
        integer_multiplication of = {y + r * y_stride, y_stride, start + r * start_stride, start_stride, factors, count, height, N};
        int64_t shares = work < FASTER * SHARED || panels < threads_at_hand ? 1 : threads_at_hand;
        if (shares == 1) integer_share(&of, 0, 1);
        else share_out(integer_share, &of, shares, work >= FASTER * WORTH_WAKING);
    }
}

/* Bytes that rounded rows take. */
static int64_t rounded_bytes(int64_t rows, int64_t K, int64_t size) {
    return readable_rows(rows < QUANTISED_ROWS ? rows : QUANTISED_ROWS) * rounded_row(size, (K + size - 1) / size);
}

static void integer_product(float *y, int64_t y_stride, const float *x, int64_t x_stride, int64_t rows, int64_t K, int64_t size,
                            int64_t bits, const char *packed, int64_t N, const float *bias, uint8_t *rounded) {
    integer_part part = integer_part_of(packed, part_bytes(K, size, bits), K, size, bits);
    integer_factor factor = {x, x_stride, &part, rounded};
    if (!bias)
        for (int64_t r = 0; r < rows; r++) memset(y + r * y_stride, 0, N * sizeof(float));
    integer_products(y, y_stride, bias ? bias : y, bias ? 0 : y_stride, &factor, 1, rows, N);
}

/* ---- LSTM */

/* One direction whose weights are integers of 8 bits, of the input and of the state in the same panels. */
typedef struct {
    recurrence layer; /* first; without w, r */
    integer_part of_input, of_state;
    uint8_t *rounded_inputs, *rounded_states;
} integer_lstm;

/* The input's share is made for many steps at once; of a single step it is made with the state's, in one reading of the weights. */
static void integer_inputs(const recurrence *of, const places *at, int64_t gates, const float *x, int64_t rows) {
    const integer_lstm *own = (const integer_lstm *)of;
    if (of->T == 1) return;
    integer_factor factor = {x, of->I, &own->of_input, own->rounded_inputs};
    integer_products(at->gates, at->row, of->bias, 0, &factor, 1, rows, gates * of->H);
}

static void integer_lstm_step(const recurrence *of, const places *at, float *gates, int64_t b, int64_t end) {
    const integer_lstm *own = (const integer_lstm *)of;
    integer_factor factors[2] = {
        {of->x + b * of->I, of->I, &own->of_input, own->rounded_inputs},
        {at->state + b * at->width, at->width, &own->of_state, own->rounded_states},
    };
    float *first = gates + b * at->row;
    if (of->T == 1) integer_products(first, at->row, of->bias, 0, factors, 2, end - b, 4 * of->H);
    else integer_products(first, at->row, first, at->row, factors + 1, 1, end - b, 4 * of->H);
    lstm_cells(of, at, gates, b, end);
}

static void lstm_of_integers(const integer_lstm *of) { recur(&of->layer, 4, integer_inputs, integer_lstm_step); }

#endif
