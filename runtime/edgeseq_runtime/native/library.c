// A program is a list of 64-bit words that `run` carries out from the first to the last: no decision is left to it but the
// rounds of a loop. Python (program.py) makes one for a graph at given sizes.
//
// An instruction is [operation, words, operand ...]. Operands are numbers or places; a place is a segment in its upper 16 bits
// and an offset in bytes below. Segment 0 starts at address 0, so that constants have places of their own; the caller gives the
// others. A loop moves the segments of what it cuts into slices. Results are contiguous; what is read may have strides, which
// are in elements.

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "vectors.h"
#include "product.h"
#include "recurrent.h"
#include "quantised.h"

enum { OUT_OF_RANGE = 1, DIVISION_BY_ZERO = 2, UNKNOWN_OPERATION = 3 };  // why a program ends early
enum { FLOAT32, INT64, INT32, BOOL };                                    // types of elements
enum { MAX_AXES = 8 };

typedef struct {
    const int64_t *word;  // the operands of an instruction
    char **segments;
} operands;

static inline char *place_of(int64_t place, char **segments) {
    return place < 0 ? NULL : segments[place >> 48] + (place & 0xFFFFFFFFFFFF);
}

#define PLACE(type, index) ((type *)place_of(given.word[index], given.segments))
#define NUMBER(index) (given.word[index])

static inline float real_of(int64_t word) {  // a float in a word is its bits
    uint32_t bits = (uint32_t)word;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

// Every combination of the outer axes' indices, the last of them fastest.
typedef struct {
    int64_t axes, index[MAX_AXES];
    const int64_t *sizes;
} odometer;

static inline odometer odometer_over(int64_t axes, const int64_t *sizes) {
    odometer made = {axes, {0}, sizes};
    return made;
}

// Moves on, and the offsets of `count` operands with it; their strides are one list after the other, `rank` numbers each. False
// at the end.
static __attribute__((noinline)) int turned(odometer *at, int64_t *offsets, const int64_t *strides, int64_t count, int64_t rank) {
    for (int64_t axis = at->axes - 1; axis >= 0; axis--) {
        for (int64_t one = 0; one < count; one++) offsets[one] += strides[one * rank + axis];
        if (++at->index[axis] < at->sizes[axis]) return 1;
        at->index[axis] = 0;
        for (int64_t one = 0; one < count; one++) offsets[one] -= strides[one * rank + axis] * at->sizes[axis];
    }
    return 0;
}

#include "arranging.h"
#include "elementwise.h"
#include "reducing.h"
#include "layers.h"

static int64_t run(const int64_t *code, const int64_t *end, char **segments);
#include "loops.h"

#define OPERATIONS(ONE)                                                                                        \
    ONE(COPY, run_copy)                                                                                        \
    ONE(UNARY, run_unary)                                                                                      \
    ONE(BINARY, run_binary)                                                                                    \
    ONE(COMPARE, run_compare)                                                                                  \
    ONE(NOT, run_not)                                                                                          \
    ONE(WHERE, run_where)                                                                                      \
    ONE(CAST, run_cast)                                                                                        \
    ONE(GATHER, run_gather)                                                                                    \
    ONE(GATHER_ELEMENTS, run_gather_elements)                                                                  \
    ONE(SCATTER_ELEMENTS, run_scatter_elements)                                                                \
    ONE(REDUCE, run_reduce)                                                                                    \
    ONE(ARGUMENT, run_argument)                                                                                \
    ONE(BEST, run_best)                                                                                        \
    ONE(RUNNING_SUM, run_running_sum)                                                                          \
    ONE(SOFTMAX, run_softmax)                                                                                  \
    ONE(LAYER_NORMALIZATION, run_layer_normalization)                                                          \
    ONE(PRODUCT, run_product)                                                                                  \
    ONE(MATMUL, run_matmul)                                                                                    \
    ONE(LSTM, run_lstm)                                                                                        \
    ONE(GRU, run_gru)                                                                                          \
    ONE(RNN, run_rnn)                                                                                          \
    ONE(QUANTISED_PRODUCT, run_quantised_product)                                                              \
    ONE(QUANTISED_LSTM, run_quantised_lstm)                                                                    \
    ONE(SCAN, run_scan)                                                                                        \
    ONE(LOOP, run_loop)

#define NAMED(name, function) OPERATION_##name,
enum { OPERATIONS(NAMED) OPERATION_COUNT };
#undef NAMED

static int64_t run(const int64_t *code, const int64_t *end, char **segments) {
    for (const int64_t *at = code; at < end; at += at[1]) {
        operands given = {at + 2, segments};
        int64_t failed = 0;
        switch (at[0]) {
#define CASE(name, function) \
    case OPERATION_##name: failed = function(given); break;
            OPERATIONS(CASE)
#undef CASE
            default: failed = UNKNOWN_OPERATION;
        }
        // A loop has already said where in its body it was.
        if (failed) return failed >> 8 ? failed : failed | (int64_t)(intptr_t)at << 8;
    }
    return 0;
}

// 0, or why and where it ended: the number of an error, and above its 8 bits the index of the instruction's first word.
int64_t edgeseq_native_run(const int64_t *code, int64_t words, char **segments, int64_t threads) {
    gather_crew(threads);
    int64_t failed = run(code, code + words, segments);
    dismiss_crew();
    return failed ? (failed & 0xFF) | ((failed >> 8) - (int64_t)(intptr_t)code) / 8 << 8 : 0;
}

#define NAME(name, ...) #name " "
// What Python calls by name: each list in the order of its numbers.
const char *edgeseq_native_names(void) {
    return OPERATIONS(NAME) "\n" UNARY_KINDS(NAME) "\n" BINARY_KINDS(NAME) "\n" COMPARE_KINDS(NAME) "\n" REDUCE_KINDS(NAME);
}

// Floats that a layer of that many gates needs for itself.
int64_t edgeseq_native_scratch(int64_t gates, int64_t T, int64_t B, int64_t I, int64_t H) {
    return places_of(NULL, gates, T, B, I, H).floats;
}

// Bytes that a product of integers needs for its rows: K inputs in blocks of that size.
int64_t edgeseq_native_rounded(int64_t rows, int64_t K, int64_t size) { return rounded_bytes(rows, K, size); }

int64_t edgeseq_native_panel(void) { return PANEL; }
