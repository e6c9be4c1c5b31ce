/* Products with packed weights: y = start + x W, for one row (a stream's step) as for thousands.
 *
 * W (K, N) is packed in panels of PANEL outputs side by side, each (K, PANEL) contiguous, the last padded with zeros:
 * packed[n / PANEL][k][n % PANEL], aligned to 64 bytes. Each output is summed in an order that K and N alone decide: a row's result
 * has the same bits among however many rows.
 */
#ifndef EDGESEQ_PRODUCT_H
#define EDGESEQ_PRODUCT_H

#include "threads.h"
#include "vectors.h"

#define VECTORS 4
#define PANEL (VECTORS * LANES)

/* Rows that are calculated together: as many as their sums fit in registers, beside a row of the panel. */
#if defined(__AVX512F__) || defined(__aarch64__)
#define TILE_ROWS 6
#else
#define TILE_ROWS 3
#endif

/* Inputs and rows that are gone through at once: a panel's weights for these inputs, and these rows' inputs, stay in a near cache.
 * With vectors as wide as a line of the cache, the panel's is the second one. */
#define BLOCK_INPUTS (LANES == 16 ? 512 : 192)
#define BLOCK_ROWS 192

/* One row takes two panels at a time, where the sums of one alone would wait for each other longer than for the weights. */
#define PAIRED (LANES < 16)

/* Weights of fewer floats stay in a near cache whole. */
#define LARGE 32768

/* Products of fewer multiplications are done before another thread would have seen them; of more, they take longer than waking
 * one. */
#define SHARED 32768
#define WORTH_WAKING 8000000

/* y[r, :] = start[r, :] + x[r, :] W for `rows` rows and `vectors` vectors of one panel, which both are constants where this is
 * inlined, as is `chains`: the number of partial sums an output has. Few vectors alone would wait for each sum before the next. */
INLINE void tile(const int rows, const int vectors, const int chains, float *y, int64_t y_stride, const float *start,
                 int64_t start_stride, const float *x, int64_t x_stride, int64_t inputs, const float *panel) {
    floats sums[TILE_ROWS][VECTORS];
    UNROLLED
    for (int r = 0; r < rows; r++)
        UNROLLED
        for (int v = 0; v < vectors * chains; v++)
            sums[r][v] = v < vectors ? load(start + r * start_stride + v * LANES) : (floats){0};
    for (; inputs >= chains; inputs -= chains, x += chains, panel += chains * PANEL)
        UNROLLED
        for (int c = 0; c < chains; c++)
            UNROLLED
            for (int v = 0; v < vectors; v++) {
                floats weights = load(panel + c * PANEL + v * LANES);
                UNROLLED
                for (int r = 0; r < rows; r++) sums[r][c * vectors + v] += x[r * x_stride + c] * weights;
            }
    for (; inputs > 0; inputs--, x++, panel += PANEL)
        UNROLLED
        for (int v = 0; v < vectors; v++)
            UNROLLED
            for (int r = 0; r < rows; r++) sums[r][v] += x[r * x_stride] * load(panel + v * LANES);
    UNROLLED
    for (int r = 0; r < rows; r++)
        UNROLLED
        for (int v = 0; v < vectors; v++) {
            floats sum = sums[r][v];
            UNROLLED
            for (int c = 1; c < chains; c++) sum += sums[r][c * vectors + v];
            store(y + r * y_stride + v * LANES, sum);
        }
}

INLINE void tile_of_vectors(const int vectors, const int chains, int rows, float *y, int64_t y_stride, const float *start,
                            int64_t start_stride, const float *x, int64_t x_stride, int64_t inputs, const float *panel) {
#define ROWS(n) case n: tile(n, vectors, chains, y, y_stride, start, start_stride, x, x_stride, inputs, panel); break;
    switch (rows) {
        ROWS(1) ROWS(2) ROWS(3)
#if TILE_ROWS == 6
        ROWS(4) ROWS(5) ROWS(6)
#endif
    }
#undef ROWS
}

/* Kept apart from their callers, whose variables would displace addresses from registers inside the loops. */
static void whole_tile(int rows, float *y, int64_t y_stride, const float *start, int64_t start_stride, const float *x,
                       int64_t x_stride, int64_t inputs, const float *panel) __attribute__((noinline));
static void part_tile(int64_t outputs, int rows, float *y, int64_t y_stride, const float *start, int64_t start_stride,
                      const float *x, int64_t x_stride, int64_t inputs, const float *panel) __attribute__((noinline));

static void whole_tile(int rows, float *y, int64_t y_stride, const float *start, int64_t start_stride, const float *x,
                       int64_t x_stride, int64_t inputs, const float *panel) {
    tile_of_vectors(VECTORS, 1, rows, y, y_stride, start, start_stride, x, x_stride, inputs, panel);
}

/* A tile of the last panel, of which `outputs` < PANEL are there: through a buffer, so that nothing else of y is touched. */
static void part_tile(int64_t outputs, int rows, float *y, int64_t y_stride, const float *start, int64_t start_stride,
                      const float *x, int64_t x_stride, int64_t inputs, const float *panel) {
    float part[TILE_ROWS][PANEL] = {{0}};
    for (int r = 0; r < rows; r++) memcpy(part[r], start + r * start_stride, outputs * sizeof(float));
#define OF(vectors, chains) tile_of_vectors(vectors, chains, rows, part[0], PANEL, part[0], PANEL, x, x_stride, inputs, panel)
    if (outputs <= LANES) OF(1, 4);
    else if (outputs <= 2 * LANES) OF(2, 2);
    else if (outputs <= 3 * LANES) OF(3, 1);
    else OF(4, 1);
#undef OF
    for (int r = 0; r < rows; r++) memcpy(y + r * y_stride, part[r], outputs * sizeof(float));
}

typedef struct {
    float *y;
    int64_t y_stride;
    const float *start;
    int64_t start_stride;
    const float *x;
    int64_t x_stride, rows, K;
    const float *packed;
    int64_t N;
} multiplication;

/* The outputs from n on of one panel, for the rows from row to end - 1. */
static void one_panel(const multiplication *of, int64_t n, int64_t row, int64_t end) {
    int64_t k = 0;
    do {
        int64_t inputs = of->K - k < BLOCK_INPUTS ? of->K - k : BLOCK_INPUTS;
        const float *panel = of->packed + n * of->K + k * PANEL;
        /* Tiles of sizes as even as can be: 7 rows are 4 and 3, not 6 and 1. */
        int64_t tiles = (end - row + TILE_ROWS - 1) / TILE_ROWS;
        for (int64_t r = row; r < end; tiles--) {
            int height = (int)((end - r + tiles - 1) / tiles);
            float *y = of->y + r * of->y_stride + n;
            const float *start = k ? y : of->start + r * of->start_stride + n, *x = of->x + r * of->x_stride + k;
            int64_t start_stride = k ? of->y_stride : of->start_stride;
            if (of->N - n >= PANEL) whole_tile(height, y, of->y_stride, start, start_stride, x, of->x_stride, inputs, panel);
            else part_tile(of->N - n, height, y, of->y_stride, start, start_stride, x, of->x_stride, inputs, panel);
            r += height;
        }
        k += inputs;
    } while (k < of->K);
}

/* The outputs from n on of two whole panels, for one row. */
static void two_panels(const multiplication *of, int64_t n, int64_t row) {
    float *y = of->y + row * of->y_stride + n;
    const float *start = of->start + row * of->start_stride + n, *x = of->x + row * of->x_stride;
    const float *panels[2] = {of->packed + n * of->K, of->packed + (n + PANEL) * of->K};
    floats sums[2][VECTORS];
    UNROLLED
    for (int p = 0; p < 2; p++)
        UNROLLED
        for (int v = 0; v < VECTORS; v++) sums[p][v] = load(start + p * PANEL + v * LANES);
    for (int64_t k = 0; k < of->K; k++)
        UNROLLED
        for (int p = 0; p < 2; p++)
            UNROLLED
            for (int v = 0; v < VECTORS; v++) sums[p][v] += x[k] * load(panels[p] + k * PANEL + v * LANES);
    UNROLLED
    for (int p = 0; p < 2; p++)
        UNROLLED
        for (int v = 0; v < VECTORS; v++) store(y + p * PANEL + v * LANES, sums[p][v]);
}

/* Whether large weights are to be read from their last panel to the first: every second time, so that where they are larger than a
 * cache, what was read last and is still there is read first. */
static int is_backwards(const float *packed) {
    static _Thread_local unsigned char turns[256];
    return turns[((uint64_t)(uintptr_t)packed >> 6) * 0x9e3779b97f4a7c15u >> 56] ^= 1;
}

/* The panels of one share of the outputs; every share is of whole panels, so that each has the same weights each time. */
static void multiply_share(const void *job, int64_t share, int64_t shares) {
    const multiplication *of = job;
    int64_t panels = (of->N + PANEL - 1) / PANEL, whole = of->N / PANEL;
    int64_t begin = panels * share / shares, stop = panels * (share + 1) / shares;
    int backwards = of->K * (stop - begin) * PANEL >= LARGE && is_backwards(of->packed + begin * PANEL * of->K);
    for (int64_t row = 0; row < of->rows; row += BLOCK_ROWS, backwards ^= 1) {
        int64_t end = of->rows - row < BLOCK_ROWS ? of->rows : row + BLOCK_ROWS;
        for (int64_t first = begin, last = stop; first < last;) {
            if (PAIRED && end - row == 1 && last - first > 1 && (backwards ? last : first + 2) <= whole) {
                two_panels(of, (backwards ? last - 2 : first) * PANEL, row);
                if (backwards) last -= 2;
                else first += 2;
            } else one_panel(of, (backwards ? --last : first++) * PANEL, row, end);
        }
    }
}

/* For each row r < rows and output n < N: y[r, n] = start[r, n] + sum over k < K of x[r, k] W[k, n]. */
static void multiply_rows(const multiplication *of) {
    int64_t panels = (of->N + PANEL - 1) / PANEL, work = of->rows * of->K * of->N;
    int64_t shares = work < SHARED || panels < threads_at_hand ? 1 : threads_at_hand;
    if (shares == 1) multiply_share(of, 0, 1);
    else share_out(multiply_share, of, shares, work >= WORTH_WAKING);
}

/* y[r * y_stride + n] = bias[n] + sum over k of x[r * x_stride + k] W[k, n]; no bias: NULL. y and x are aligned to 4 bytes. */
static void product(float *y, int64_t y_stride, const float *x, int64_t x_stride, int64_t rows, int64_t K, const float *packed,
                    int64_t N, const float *bias) {
    for (int64_t r = 0; !bias && r < rows; r++) memset(y + r * y_stride, 0, N * sizeof(float));
    multiply_rows(&(multiplication){y, y_stride, bias ? bias : y, bias ? 0 : y_stride, x, x_stride, rows, K, packed, N});
}

/* y[r * y_stride + n] += sum over k of x[r * x_stride + k] W[k, n] */
static void product_onto(float *y, int64_t y_stride, const float *x, int64_t x_stride, int64_t rows, int64_t K, const float *packed,
                         int64_t N) {
    multiply_rows(&(multiplication){y, y_stride, y, y_stride, x, x_stride, rows, K, packed, N});
}

#endif
