/* LSTM, GRU and RNN: one direction of one node as ONNX defines it (layout 0, no clip, no input_forget).
 *
 * The products with the inputs are made for blocks of steps, then each step adds its product with the state and passes once over
 * the gates. Steps count from the beginning of each sequence, or from its own end backwards; outputs past a sequence's length are
 * zeros.
 */
#ifndef EDGESEQ_RECURRENT_H
#define EDGESEQ_RECURRENT_H

#include "product.h"
#include "vectors.h"

enum { SIGMOID, TANH, RELU, HARD_SIGMOID, AFFINE, LEAKY_RELU, ELU, SOFTSIGN, SOFTPLUS, SCALED_TANH, THRESHOLDED_RELU };

typedef struct {
    int32_t kind;
    float alpha, beta;
} activation;

/* G gates: 4 in ONNX's order i, o, f, c for an LSTM, 3 (z, r, h) for a GRU, 1 for an RNN. Arrays are contiguous, weights and biases
 * packed as product.h says. NULL leaves out what may be absent: lengths, h0 and c0 (zeros), y, h_end, c_end, peepholes. */
typedef struct {
    int64_t T, B, I, H;
    int64_t backwards, linear_before_reset;
    const float *x;              /* (T, B, I) */
    const float *w;              /* (I, G H) */
    const float *bias;           /* (G H): of input and state together, but for a GRU with linear_before_reset */
    const float *r;              /* (H, G H); of a GRU without linear_before_reset (H, 2 H): z and r */
    const float *r_hidden;       /* (H, H): h of a GRU without linear_before_reset */
    const float *recurrent_bias; /* (3 H): zeros, zeros, Rbh, of a GRU with linear_before_reset; its `bias` ends in Wbh alone */
    const float *peepholes;      /* (3 H): i, o, f */
    const int32_t *lengths;      /* (B): each 0 to T */
    const float *h0, *c0;        /* (B, H) */
    float *y;                    /* step t of sequence b at t * y_step + b * y_row */
    int64_t y_step, y_row;
    float *h_end, *c_end;        /* (B, H); may be h0 and c0 themselves */
    float *scratch;              /* aligned to 64 bytes; lstm_scratch, gru_scratch or rnn_scratch says how many floats */
    activation f, g, h;          /* as ONNX names them */
} recurrence;

/* ---- activations */

static void activate(float *y, const float *x, int64_t n, activation by) {
    float alpha = by.alpha, beta = by.beta;
#define ONE_BY_ONE(value)                     \
    for (int64_t i = 0; i < n; i++) {         \
        float v = x[i];                       \
        y[i] = value;                         \
    }                                         \
    break;
#define EACH(value) INDEPENDENT ONE_BY_ONE(value)
    switch (by.kind) {
        case SIGMOID: sigmoid_all(y, x, n); break;
        case TANH: tanh_all(y, x, n); break;
        case RELU: ONE_BY_ONE(at_least(0.0f, v))
        case HARD_SIGMOID: EACH(at_most(1.0f, at_least(0.0f, alpha * v + beta)))
        case AFFINE: EACH(alpha * v + beta)
        case LEAKY_RELU: ONE_BY_ONE(v < 0.0f ? alpha * v : v)
        case ELU: ONE_BY_ONE(v < 0.0f ? alpha * expm1f(v) : v)
        case SOFTSIGN: EACH(v / (1.0f + magnitude(v)))
        case SOFTPLUS: ONE_BY_ONE(at_least(0.0f, v) + log1pf(exp_of(-magnitude(v))))
        case SCALED_TANH: EACH(alpha * tanh_of(beta * v))
        case THRESHOLDED_RELU: ONE_BY_ONE(v < alpha ? 0.0f : v)
    }
#undef EACH
#undef ONE_BY_ONE
}

/* ---- where things lie in scratch */

/* Rows of the product with the inputs that are made at once, steps times sequences: many, so that weights beyond the cache are read
 * seldom, and few enough for the gates to stay in it. */
#define BLOCK_GATE_ROWS 128

INLINE int64_t whole_vectors(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

static int64_t steps_at_once(int64_t T, int64_t B) {
    int64_t steps = BLOCK_GATE_ROWS / B;
    return steps < 1 ? 1 : steps > T ? T : steps;
}

typedef struct {
    int64_t steps;            /* of a block */
    int64_t width, row;       /* floats from one sequence's state, gates, to the next one's */
    float *state, *cell;      /* (B, width) */
    float *gates;             /* (steps, B, row) */
    float *part;              /* (B, row): what one step needs beside them */
    float *inputs;            /* (steps, B, I): inputs in the order of steps, where that is not x's own */
    float *peepholes;         /* (3, width) */
    int64_t floats;
} places;

static places places_of(float *scratch, int64_t gates, int64_t T, int64_t B, int64_t I, int64_t H) {
    /* LANES more: whole vectors of the last gate end in its own row, and rows of 4 KB would displace each other in the cache. */
    places p = {.steps = steps_at_once(T, B), .width = whole_vectors(H), .row = whole_vectors(gates * H) + LANES};
    int64_t sizes[] = {B * p.width, B * p.width, p.steps * B * p.row, B * p.row, p.steps * B * I, 3 * p.width};
    float **arrays[] = {&p.state, &p.cell, &p.gates, &p.part, &p.inputs, &p.peepholes};
    for (int i = 0; i < 6; i++) {
        *arrays[i] = scratch ? scratch + p.floats : scratch;
        p.floats += whole_vectors(sizes[i]);
    }
    return p;
}

static int64_t lstm_scratch(int64_t T, int64_t B, int64_t I, int64_t H) { return places_of(NULL, 4, T, B, I, H).floats; }
static int64_t gru_scratch(int64_t T, int64_t B, int64_t I, int64_t H) { return places_of(NULL, 3, T, B, I, H).floats; }
static int64_t rnn_scratch(int64_t T, int64_t B, int64_t I, int64_t H) { return places_of(NULL, 1, T, B, I, H).floats; }

/* ---- sequences */

INLINE int64_t length_of(const recurrence *of, int64_t b) { return of->lengths ? of->lengths[b] : of->T; }

/* The time at which sequence b makes its step s. */
INLINE int64_t time_of(const recurrence *of, int64_t s, int64_t b) { return of->backwards ? length_of(of, b) - 1 - s : s; }

/* (B, H) to (B, width); absent: zeros. Floats beyond H stay what calculations make of them, and reach no output. */
static void spread(float *to, const float *from, int64_t B, int64_t H, int64_t width) {
    if (!from) {
        memset(to, 0, B * width * sizeof(float));
        return;
    }
    for (int64_t b = 0; b < B; b++) {
        memcpy(to + b * width, from + b * H, H * sizeof(float));
        memset(to + b * width + H, 0, (width - H) * sizeof(float));
    }
}

static void gather(float *to, const float *from, int64_t B, int64_t H, int64_t width) {
    if (!to) return;
    for (int64_t b = 0; b < B; b++) memcpy(to + b * H, from + b * width, H * sizeof(float));
}

/* Writes the products of rows of x with the input's weights, and the biases, where the gates begin. */
typedef void product_of_inputs(const recurrence *of, const places *at, int64_t gates, const float *x, int64_t rows);

static void float_inputs(const recurrence *of, const places *at, int64_t gates, const float *x, int64_t rows) {
    product(at->gates, at->row, x, of->I, rows, of->I, of->w, gates * of->H, of->bias);
}

/* The products with the inputs for steps s to end - 1. Returns the gates of step s, and in *step what leads to the next step's. */
static const float *gates_of_inputs(const recurrence *of, const places *at, int64_t gates, product_of_inputs *multiply, int64_t s,
                                    int64_t end, int64_t *step) {
    int64_t rows = (end - s) * of->B, size = of->B * of->I;
    const float *x = of->x + (of->backwards ? of->T - end : s) * size;
    if (of->backwards && of->lengths) {
        for (int64_t i = s; i < end; i++)
            for (int64_t b = 0; b < of->B; b++) {
                int64_t t = time_of(of, i, b);
                float *to = at->inputs + ((end - 1 - i) * of->B + b) * of->I;
                if (t >= 0) memcpy(to, of->x + (t * of->B + b) * of->I, of->I * sizeof(float));
                else memset(to, 0, of->I * sizeof(float));
            }
        x = at->inputs;
    }
    multiply(of, at, gates, x, rows);
    *step = of->backwards ? -of->B * at->row : of->B * at->row;
    return of->backwards ? at->gates + (end - 1 - s) * of->B * at->row : at->gates;
}

/* One step of the sequences b to end - 1, whose gates so far come from the inputs. */
typedef void step_of(const recurrence *of, const places *at, float *gates, int64_t b, int64_t end);

static void recur(const recurrence *of, int64_t gates, product_of_inputs *multiply, step_of *step_of_cell) {
    places at = places_of(of->scratch, gates, of->T, of->B, of->I, of->H);
    int64_t B = of->B, H = of->H;
    spread(at.state, of->h0, B, H, at.width);
    spread(at.cell, of->c0, B, H, at.width);
    if (of->peepholes) spread(at.peepholes, of->peepholes, 3, H, at.width);
    for (int64_t s = 0; s < of->T; s += at.steps) {
        int64_t end = of->T - s < at.steps ? of->T : s + at.steps, step;
        float *now = (float *)gates_of_inputs(of, &at, gates, multiply, s, end, &step);
        for (int64_t i = s; i < end; i++, now += step)
            for (int64_t b = 0; b < B;) {
                if (i >= length_of(of, b)) {
                    if (of->y) memset(of->y + i * of->y_step + b * of->y_row, 0, H * sizeof(float));
                    b++;
                    continue;
                }
                int64_t first = b;
                while (b < B && i < length_of(of, b)) b++;
                step_of_cell(of, &at, now, first, b);
                for (int64_t d = first; of->y && d < b; d++)
                    memcpy(of->y + time_of(of, i, d) * of->y_step + d * of->y_row, at.state + d * at.width, H * sizeof(float));
            }
    }
    gather(of->h_end, at.state, B, H, at.width);
    gather(of->c_end, at.cell, B, H, at.width);
}

/* ---- cells */

static int is_usual(activation f, activation g) { return f.kind == SIGMOID && g.kind == TANH; }

static void usual_lstm_gates(const float *gates, float *state, float *cell, int64_t H, int64_t width) {
    const float *i = gates, *o = gates + H, *f = gates + 2 * H, *c = gates + 3 * H;
    INDEPENDENT
    for (int64_t j = 0; j < width; j++) {
        fraction in = sigmoid_fraction(i[j]), out = sigmoid_fraction(o[j]), keep = sigmoid_fraction(f[j]);
        fraction new = tanh_fraction(c[j]);
        float now = keep.top / keep.bottom * cell[j] + in.top * new.top / (in.bottom * new.bottom);
        fraction shown = tanh_fraction(now);
        cell[j] = now;
        state[j] = out.top * shown.top / (out.bottom * shown.bottom);
    }
}

/* c = f(i) g(c) + f(f) c, h = f(o) h(c), with the cell looked at through peepholes: before the step by i and f, after it by o. */
static void lstm_gates(const recurrence *of, const float *peepholes, float *gates, float *state, float *cell, int64_t width) {
    int64_t H = of->H;
    float *i = gates, *o = gates + H, *f = gates + 2 * H, *c = gates + 3 * H;
    for (int64_t j = 0; peepholes && j < H; j++) {
        i[j] += peepholes[j] * cell[j];
        f[j] += peepholes[2 * width + j] * cell[j];
    }
    activate(i, i, H, of->f);
    activate(f, f, H, of->f);
    activate(c, c, H, of->g);
    for (int64_t j = 0; j < H; j++) cell[j] = f[j] * cell[j] + i[j] * c[j];
    for (int64_t j = 0; peepholes && j < H; j++) o[j] += peepholes[width + j] * cell[j];
    activate(o, o, H, of->f);
    activate(state, cell, H, of->h);
    for (int64_t j = 0; j < H; j++) state[j] *= o[j];
}

/* What follows the products of an LSTM's step. */
static void lstm_cells(const recurrence *of, const places *at, float *gates, int64_t b, int64_t end) {
    int usual = is_usual(of->f, of->g) && of->h.kind == TANH && !of->peepholes;
    for (; b < end; b++) {
        float *own = gates + b * at->row, *state = at->state + b * at->width, *cell = at->cell + b * at->width;
        if (usual) usual_lstm_gates(own, state, cell, of->H, at->width);
        else lstm_gates(of, of->peepholes ? at->peepholes : NULL, own, state, cell, at->width);
    }
}

static void lstm_step(const recurrence *of, const places *at, float *gates, int64_t b, int64_t end) {
    product_onto(gates + b * at->row, at->row, at->state + b * at->width, at->width, end - b, of->H, of->r, 4 * of->H);
    lstm_cells(of, at, gates, b, end);
}

/* h = (1 - z) g + z h = g + z (h - g) */
static void gru_step_after_product(const recurrence *of, const places *at, float *gates, int64_t b, int64_t end) {
    int64_t H = of->H;
    int usual = is_usual(of->f, of->g);
    product(at->part + b * at->row, at->row, at->state + b * at->width, at->width, end - b, H, of->r, 3 * H, of->recurrent_bias);
    for (; b < end; b++) {
        float *z = gates + b * at->row, *r = z + H, *h = r + H, *state = at->state + b * at->width;
        const float *z_state = at->part + b * at->row, *r_state = z_state + H, *h_state = r_state + H;
        if (usual) {
            INDEPENDENT
            for (int64_t j = 0; j < at->width; j++) {
                fraction reset = sigmoid_fraction(r[j] + r_state[j]), update = sigmoid_fraction(z[j] + z_state[j]);
                fraction new = tanh_fraction(h[j] + reset.top / reset.bottom * h_state[j]);
                float now = new.top / new.bottom;
                state[j] = now + update.top / update.bottom * (state[j] - now);
            }
            continue;
        }
        for (int64_t j = 0; j < 2 * H; j++) z[j] += z_state[j];
        activate(z, z, 2 * H, of->f);
        for (int64_t j = 0; j < H; j++) h[j] += r[j] * h_state[j];
        activate(h, h, H, of->g);
        for (int64_t j = 0; j < H; j++) state[j] = h[j] + z[j] * (state[j] - h[j]);
    }
}

static void gru_step_before_product(const recurrence *of, const places *at, float *gates, int64_t b, int64_t end) {
    int64_t H = of->H, rows = end - b;
    float *first = gates + b * at->row, *reset = at->part + b * at->row;
    product_onto(first, at->row, at->state + b * at->width, at->width, rows, H, of->r, 2 * H);
    for (int64_t d = 0; d < rows; d++) {
        float *z = first + d * at->row;
        const float *r = z + H, *state = at->state + (b + d) * at->width;
        activate(z, z, 2 * H, of->f);
        for (int64_t j = 0; j < H; j++) reset[d * at->row + j] = r[j] * state[j];
    }
    product_onto(first + 2 * H, at->row, reset, at->row, rows, H, of->r_hidden, H);
    for (int64_t d = 0; d < rows; d++) {
        float *z = first + d * at->row, *h = z + 2 * H, *state = at->state + (b + d) * at->width;
        activate(h, h, H, of->g);
        for (int64_t j = 0; j < H; j++) state[j] = h[j] + z[j] * (state[j] - h[j]);
    }
}

static void rnn_step(const recurrence *of, const places *at, float *gates, int64_t b, int64_t end) {
    product_onto(gates + b * at->row, at->row, at->state + b * at->width, at->width, end - b, of->H, of->r, of->H);
    for (; b < end; b++) activate(at->state + b * at->width, gates + b * at->row, of->H, of->f);
}

static void lstm(const recurrence *of) { recur(of, 4, float_inputs, lstm_step); }
static void gru(const recurrence *of) {
    recur(of, 3, float_inputs, of->linear_before_reset ? gru_step_after_product : gru_step_before_product);
}
static void rnn(const recurrence *of) { recur(of, 1, float_inputs, rnn_step); }

#endif
