/* Vectors of floats of the machine's own width, and exp, sigmoid and tanh without a branch: a loop over them becomes vector code.
 *
 * exp is within 1 unit in the last place, sigmoid and tanh within 2, over all floats, denormal results included; infinities and NaN
 * go where they should. The fused multiply-add that the compiler makes of these expressions is welcome but not relied on.
 */
#ifndef EDGESEQ_VECTORS_H
#define EDGESEQ_VECTORS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif

#define INLINE static inline __attribute__((always_inline))

/* INDEPENDENT: before a loop of which no turn reads what another writes (writing over its own input is fine).
 * UNROLLED: before a short loop that is to leave only its turns, so that the vectors it works on stay in registers. */
#if defined(__clang__)
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#define UNROLLED _Pragma("clang loop unroll(full)")
#else
#define INDEPENDENT _Pragma("GCC ivdep")
#define UNROLLED _Pragma("GCC unroll 8")
#endif

typedef float floats __attribute__((vector_size(4 * LANES)));
typedef floats floats_anywhere __attribute__((aligned(4), may_alias));

INLINE floats load(const float *from) { return *(const floats_anywhere *)from; }
INLINE void store(float *to, floats value) { *(floats_anywhere *)to = value; }

INLINE uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

INLINE float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

INLINE float magnitude(float x) { return float_of(bits_of(x) & 0x7fffffffu); }
INLINE float with_sign_of(float value, float x) { return float_of((bits_of(value) & 0x7fffffffu) | (bits_of(x) & 0x80000000u)); }

/* These keep a NaN, which fmaxf and fminf drop. */
INLINE float at_least(float low, float x) { return x < low ? low : x; }
INLINE float at_most(float high, float x) { return x > high ? high : x; }

/* exp(x) = 2^exponent (1 + rest), -0.35 < rest < 0.42, for |x| < 1e6. */
typedef struct { int32_t exponent; float rest; } power;

INLINE power power_of(float x) {
    /* Added to a small number, 1.5 * 2^23 leaves the nearest integer in the low bits. */
    const float shift = 12582912.0f;
    float shifted = x * 1.44269504f + shift;
    float whole = shifted - shift;
    /* ln 2 in two parts, the first so short that its product with a whole number is exact. */
    float nearly = x - whole * 0.693359375f;
    float r = nearly - whole * -2.12194440e-4f;
    float lost = (nearly - r) - whole * -2.12194440e-4f;
    /* (exp(r) - 1 - r) / r^2: least greatest error of exp over |r| <= ln(2) / 2, 3.6e-9. */
    float q = 0x1.6a23d0p-10f;
    q = q * r + 0x1.123a20p-7f;
    q = q * r + 0x1.5558f2p-5f;
    q = q * r + 0x1.555492p-3f;
    q = q * r + 0x1.fffffcp-2f;
    return (power){(int32_t)(bits_of(shifted) - 0x4b400000u), r + (r * r * q + lost)};
}

/* 2^exponent, -126 <= exponent <= 127 */
INLINE float power_of_two(int32_t exponent) { return float_of((uint32_t)(exponent + 127) << 23); }

INLINE float exp_of(float x) {
    power p = power_of(at_most(89.0f, at_least(-104.0f, x)));
    /* In two steps: 2^128 and 2^-150 are no floats. */
    int32_t half = p.exponent >> 1;
    return (1.0f + p.rest) * power_of_two(half) * power_of_two(p.exponent - half);
}

/* top / bottom, undivided: products of fractions need one division. */
typedef struct { float top, bottom; } fraction;

/* From decay = exp(-|x|). */
INLINE fraction sigmoid_from(float decay, float x) {
    uint32_t negative = (uint32_t)((int32_t)bits_of(x) >> 31);
    return (fraction){float_of((bits_of(decay) & negative) | (bits_of(1.0f) & ~negative)), 1.0f + decay};
}

/* sigmoid but for x < -87, where it stays at 1.6e-38. */
INLINE fraction sigmoid_fraction(float x) {
    power p = power_of(at_least(-87.0f, -magnitude(x)));
    return sigmoid_from((1.0f + p.rest) * power_of_two(p.exponent), x);
}

/* exp(-2 |x|) - 1 = less_one + lost, exact to its last places near 0 too. */
typedef struct { float less_one, lost; } decrease;

INLINE decrease decrease_of(float x) {
    power p = power_of(at_least(-40.0f, -2.0f * magnitude(x)));
    float scale = power_of_two(p.exponent), most = scale - 1.0f;
    float less_one = most + scale * p.rest;
    return (decrease){less_one, scale * p.rest - (less_one - most)};
}

INLINE fraction tanh_fraction(float x) {
    float less_one = decrease_of(x).less_one;
    return (fraction){with_sign_of(less_one, x), 2.0f + less_one};
}

/* 1 / bottom to 1 part in 8, 1 <= bottom <= 2: enough to put right what roundings lost. */
INLINE float about_inverse(float bottom) { return 1.5f - 0.5f * bottom; }

INLINE float sigmoid_of(float x) {
    float decay = exp_of(-magnitude(x));
    fraction s = sigmoid_from(decay, x);
    float rounded = s.top / s.bottom, lost = decay - (s.bottom - 1.0f);
    return rounded - rounded * (lost * about_inverse(s.bottom));
}

INLINE float tanh_of(float x) {
    decrease d = decrease_of(x);
    float bottom = 2.0f + d.less_one, rounded = -d.less_one / bottom;
    float lost = d.less_one - (bottom - 2.0f) + d.lost;
    return with_sign_of(rounded - (d.lost + rounded * lost) * about_inverse(bottom), x);
}

static void exp_all(float *y, const float *x, int64_t n) {
    INDEPENDENT
    for (int64_t i = 0; i < n; i++) y[i] = exp_of(x[i]);
}

static void sigmoid_all(float *y, const float *x, int64_t n) {
    INDEPENDENT
    for (int64_t i = 0; i < n; i++) y[i] = sigmoid_of(x[i]);
}

static void tanh_all(float *y, const float *x, int64_t n) {
    INDEPENDENT
    for (int64_t i = 0; i < n; i++) y[i] = tanh_of(x[i]);
}

#endif
