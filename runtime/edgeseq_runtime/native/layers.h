// Products and recurrent layers.

// [y, stride of y, x, stride of x, rows, K, packed weights, N, bias or none]
static int64_t run_product(operands given) {
    product(PLACE(float, 0), NUMBER(1), PLACE(const float, 2), NUMBER(3), NUMBER(4), NUMBER(5), PLACE(const float, 6), NUMBER(7),
            PLACE(const float, 8));
    return 0;
}

// [y, a, b, M, N, K, strides of a: m, k, strides of b: k, n, axes, sizes ..., strides of a ..., strides of b ...]: both factors
// are computed.
static int64_t run_matmul(operands given) {
    float *restrict y = PLACE(float, 0);
    const float *a0 = PLACE(const float, 1), *b0 = PLACE(const float, 2);
    const int64_t M = NUMBER(3), N = NUMBER(4), K = NUMBER(5), axes = NUMBER(10);
    const int64_t am = NUMBER(6), ak = NUMBER(7), bk = NUMBER(8), bn = NUMBER(9);
    const int64_t *sizes = given.word + 11, *strides = sizes + axes;
    odometer at = odometer_over(axes, sizes);
    int64_t offsets[2] = {0, 0};
    do {
        const float *restrict a = a0 + offsets[0], *restrict b = b0 + offsets[1];
        for (int64_t m = 0; m < M; m++, y += N, a += am) {
            if (bn == 1) {
                memset(y, 0, (size_t)N * sizeof(float));
                for (int64_t k = 0; k < K; k++) {
                    const float by = a[k * ak];
                    for (int64_t n = 0; n < N; n++) y[n] += by * b[k * bk + n];
                }
            } else if (ak == 1 && bk == 1 && K < 4 * LANES) {
                short_dots(y, a, b, bn, N, K);
            } else if (ak == 1 && bk == 1) {
                for (int64_t n = 0; n < N; n++) y[n] = dot_over(a, b + n * bn, K);
            } else {
                for (int64_t n = 0; n < N; n++) {
                    float sum = 0;
                    for (int64_t k = 0; k < K; k++) sum += a[k * ak] * b[k * bk + n * bn];
                    y[n] = sum;
                }
            }
        }
    } while (turned(&at, offsets, strides, 2, axes));
    return 0;
}

// [T, B, I, H, backwards, linear before reset, x, w, bias, r, r of the hidden gate, recurrent bias, peepholes, lengths, h0, c0,
// y, step of y, row of y, last h, last c, scratch, three activations: kind, alpha, beta ...]
static recurrence layer_of(operands given) {
    recurrence of = {
        .T = NUMBER(0), .B = NUMBER(1), .I = NUMBER(2), .H = NUMBER(3), .backwards = NUMBER(4), .linear_before_reset = NUMBER(5),
        .x = PLACE(const float, 6), .w = PLACE(const float, 7), .bias = PLACE(const float, 8), .r = PLACE(const float, 9),
        .r_hidden = PLACE(const float, 10), .recurrent_bias = PLACE(const float, 11), .peepholes = PLACE(const float, 12),
        .lengths = PLACE(const int32_t, 13), .h0 = PLACE(const float, 14), .c0 = PLACE(const float, 15), .y = PLACE(float, 16),
        .y_step = NUMBER(17), .y_row = NUMBER(18), .h_end = PLACE(float, 19), .c_end = PLACE(float, 20),
        .scratch = PLACE(float, 21),
        .f = {(int32_t)NUMBER(22), real_of(NUMBER(23)), real_of(NUMBER(24))},
        .g = {(int32_t)NUMBER(25), real_of(NUMBER(26)), real_of(NUMBER(27))},
        .h = {(int32_t)NUMBER(28), real_of(NUMBER(29)), real_of(NUMBER(30))},
    };
    return of;
}

static int64_t lengths_fit(const recurrence *of) {
    for (int64_t b = 0; of->lengths && b < of->B; b++)
        if (of->lengths[b] < 0 || of->lengths[b] > of->T) return OUT_OF_RANGE;
    return 0;
}

// [y, stride of y, x, stride of x, rows, K, inputs of a block, bits, packed weights, N, bias or none, room for rounded rows]
static int64_t run_quantised_product(operands given) {
    integer_product(PLACE(float, 0), NUMBER(1), PLACE(const float, 2), NUMBER(3), NUMBER(4), NUMBER(5), NUMBER(6), NUMBER(7),
                    PLACE(const char, 8), NUMBER(9), PLACE(const float, 10), PLACE(uint8_t, 11));
    return 0;
}

// As of layers of floats, and then: [packed weights of input and state, room for rounded inputs, for rounded states]
static int64_t run_quantised_lstm(operands given) {
    recurrence layer = layer_of(given);
    const char *packed = PLACE(const char, 31);
    integer_lstm of = {.layer = layer, .rounded_inputs = PLACE(uint8_t, 32), .rounded_states = PLACE(uint8_t, 33)};
    int64_t input = whole_groups(layer.I), state = whole_groups(layer.H);
    int64_t own = part_bytes(input, input, 8), stride = own + part_bytes(state, state, 8);
    of.of_input = integer_part_of(packed, stride, layer.I, input, 8);
    of.of_state = integer_part_of(packed + own, stride, layer.H, state, 8);
    int64_t failed = lengths_fit(&layer);
    if (!failed) lstm_of_integers(&of);
    return failed;
}

#define LAYER(name, function)                     \
    static int64_t name(operands given) {         \
        recurrence of = layer_of(given);          \
        int64_t failed = lengths_fit(&of);        \
        if (!failed) function(&of);               \
        return failed;                            \
    }
LAYER(run_lstm, lstm)
LAYER(run_gru, gru)
LAYER(run_rnn, rnn)
