/* Products with packed weights: y = start + x W, for one row (a stream's step) as for thousands.
 *
 * W (K, N) is packed in panels of PANEL outputs side by side, each (K, PANEL) contiguous, the last padded with zeros:
 * packed[n / PANEL][k][n % PANEL], aligned to 64 bytes. Each output is summed in an order that K and N alone decide: a row's result has
 * the same bits among however many rows.
 */
#ifndef EDGESEQ_PRODUCT_H
#define EDGESEQ_PRODUCT_H

#include "vectors.h"

#define VECTORS 4
#define PANEL (VECTORS * LANES)

/* Rows that are calculated together: as many as their sums fit in registers, beside a row of the panel. */
#if defined(__AVX512F__) || defined(__aarch64__)
#define TILE_ROWS 6
#else
#define TILE_ROWS 3
#endif

/* Inputs of which a panel's weights stay in the nearest cache for all tiles of rows; and rows whose inputs stay in the next one. */
#define BLOCK_INPUTS 256
#define BLOCK_ROWS 96

/* y[r, :] = start[r, :] + x[r, :] W for `rows` rows and `vectors` vectors of one panel, which both are constants where this is
 * inlined, as is `chains`: the number of partial sums an output has. Few vectors alone would wait for each sum before the next. */
INLINE void tile(const int rows, const int vectors, const int chains, float *y, int64_t y_stride, const float *start,
                 int64_t start_stride, const float *x, int64_t x_stride, int64_t inputs, const float *panel) {
    floats sums[TILE_ROWS][VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < vectors * chains; v++) sums[r][v] = v < vectors ? load(start + r * start_stride + v * LANES) : (floats){0};
    int64_t k = 0;
    for (; k + chains <= inputs; k += chains)
#pragma GCC unroll 8
        for (int c = 0; c < chains; c++)
#pragma GCC unroll 8
            for (int v = 0; v < vectors; v++) {
                floats weights = load(panel + (k + c) * PANEL + v * LANES);
#pragma GCC unroll 8
                for (int r = 0; r < rows; r++) sums[r][c * vectors + v] += x[r * x_stride + k + c] * weights;
            }
    for (; k < inputs; k++)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++)
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) sums[r][v] += x[r * x_stride + k] * load(panel + k * PANEL + v * LANES);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) {
            floats sum = sums[r][v];
#pragma GCC unroll 8
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

static void whole_tile(int rows, float *y, int64_t y_stride, const float *start, int64_t start_stride, const float *x,
                       int64_t x_stride, int64_t inputs, const float *panel) {
    tile_of_vectors(VECTORS, 1, rows, y, y_stride, start, start_stride, x, x_stride, inputs, panel);
}

/* A tile of the last panel, of which `outputs` < PANEL are there: through a buffer, so that nothing else of y is touched. */
static void part_tile(int64_t outputs, int rows, float *y, int64_t y_stride, const float *start, int64_t start_stride, const float *x,
                      int64_t x_stride, int64_t inputs, const float *panel) {
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

/* For each row r < rows and output n < N: y[r, n] = start[r, n] + sum over k < K of x[r, k] W[k, n]. */
static void product_from(float *y, int64_t y_stride, const float *start, int64_t start_stride, const float *x, int64_t x_stride,
                         int64_t rows, int64_t K, const float *packed, int64_t N) {
    for (int64_t row = 0; row < rows; row += BLOCK_ROWS) {
        int64_t end = rows - row < BLOCK_ROWS ? rows : row + BLOCK_ROWS;
        for (int64_t n = 0; n < N; n += PANEL) {
            int64_t k = 0;
            do {
                int64_t inputs = K - k < BLOCK_INPUTS ? K - k : BLOCK_INPUTS;
                const float *panel = packed + n * K + k * PANEL;
                /* Tiles of sizes as even as can be: 7 rows are 4 and 3, not 6 and 1. */
                int64_t tiles = (end - row + TILE_ROWS - 1) / TILE_ROWS;
                for (int64_t r = row; r < end; tiles--) {
                    int height = (int)((end - r + tiles - 1) / tiles);
                    float *to = y + r * y_stride + n;
                    const float *from = k ? to : start + r * start_stride + n;
                    int64_t from_stride = k ? y_stride : start_stride;
                    if (N - n >= PANEL) whole_tile(height, to, y_stride, from, from_stride, x + r * x_stride + k, x_stride, inputs, panel);
                    else part_tile(N - n, height, to, y_stride, from, from_stride, x + r * x_stride + k, x_stride, inputs, panel);
                    r += height;
                }
                k += inputs;
            } while (k < K);
        }
    }
}

/* y[r * y_stride + n] = bias[n] + sum over k of x[r * x_stride + k] W[k, n]; no bias: NULL. y and x are aligned to 4 bytes. */
static void product(float *y, int64_t y_stride, const float *x, int64_t x_stride, int64_t rows, int64_t K, const float *packed,
                    int64_t N, const float *bias) {
    if (bias) {
        product_from(y, y_stride, bias, 0, x, x_stride, rows, K, packed, N);
        return;
    }
    for (int64_t r = 0; r < rows; r++) memset(y + r * y_stride, 0, N * sizeof(float));
    product_from(y, y_stride, y, y_stride, x, x_stride, rows, K, packed, N);
}

/* y[r * y_stride + n] += sum over k of x[r * x_stride + k] W[k, n] */
static void product_onto(float *y, int64_t y_stride, const float *x, int64_t x_stride, int64_t rows, int64_t K, const float *packed,
                         int64_t N) {
    product_from(y, y_stride, y, y_stride, x, x_stride, rows, K, packed, N);
}

#endif
