/* Which scale stands best for each group of values (engine/nn/rounding.py). Built by build.py, called by search.py.
 *
 * What each group tries: the scales whose lowest code lies at some `ends` of its largest value, and after each
 * the scale that fits its codes best by least squares; the one with the smallest error stays.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

enum { LANES = 8 };

/* Rounded to what a half can hold, as `Tensor.half` does it; never zero. */
static inline float half(float value) {
    uint32_t bits, size;
    float rounded;
    memcpy(&bits, &value, sizeof bits);
    size = bits & 0x7fffffff;
    if (size < 0x38800000) { /* 2^-14: below, halves lie 2^-24 apart, as floats do around 0.75 */
        rounded = fabsf(value) + 0.75f;
        rounded -= 0.75f;
        if (rounded == 0.0f) return 0x1p-24f;
        return value < 0 ? -rounded : rounded;
    }
    if (size > 0x477fe000) size = 0x477fe000; /* 65504, the largest half */
    bits = (bits & 0x80000000) | size;
    bits += 0xfff + (bits >> 13 & 1);
    bits &= ~0x1fffu;
    memcpy(&rounded, &bits, sizeof rounded);
    return rounded;
}

typedef float Lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t Mask __attribute__((vector_size(4 * LANES)));
#define ALL(value) ((value) - (Lanes){0})
#define WHERE(mask, yes, no) ((Lanes)(((mask) & (Mask)(yes)) | (~(mask) & (Mask)(no))))
#define INLINE static inline __attribute__((always_inline))

INLINE float sum(const Lanes *lanes) {
    float parts[LANES], total = 0;
    memcpy(parts, lanes, sizeof parts);
    for (int lane = 0; lane < LANES; lane++) total += parts[lane];
    return total;
}

/* Error of the codes at `scale`, and in `fit` the scale that fits these codes best. */
INLINE float try_scale(
    const float *values, const float *weights, int64_t group, float scale, float low, float high, float *fit) {
    const Lanes magic = ALL(12582912.0f); /* 1.5 * 2^23: floats lie 1 apart there */
    const Lanes lowest = ALL(low), highest = ALL(high);
    const float inverse = 1.0f / scale;
    Lanes errors = {0}, products = {0}, squares = {0};
    for (int64_t at = 0; at < group; at += LANES) {
        Lanes value, weight, code, rest;
        memcpy(&value, values + at, sizeof value);
        memcpy(&weight, weights + at, sizeof weight);
        code = value * inverse;
        code = WHERE(code < lowest, lowest, code);
        code = WHERE(code > highest, highest, code);
        code = (code + magic) - magic;
        rest = value - code * scale;
        errors += weight * rest * rest;
        products += weight * code * value;
        squares += weight * code * code;
    }
    float square = sum(&squares);
    *fit = sum(&products) / (square > 1e-30f ? square : 1e-30f);
    return sum(&errors);
}

INLINE void search(
    const float *values, const float *weights, int64_t groups, int64_t group, int bits, const float *ends,
    int64_t tries, float *scales) {
    float low = -(float)(1 << (bits - 1)), high = (float)((1 << (bits - 1)) - 1);
    for (int64_t number = 0; number < groups; number++, values += group) {
        float largest = values[0], best = 0, least = INFINITY;
        for (int64_t at = 1; at < group; at++)
            if (fabsf(values[at]) > fabsf(largest)) largest = values[at];
        for (int64_t end = 0; end < tries; end++) {
            float scale = half(largest * (ends[end] / low));
            for (int fitted = 0; fitted < 2; fitted++) {
                float fit, error = try_scale(values, weights, group, scale, low, high, &fit);
                if (error < least) least = error, best = scale;
                scale = half(fit);
            }
        }
        scales[number] = best;
    }
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static void search_avx2(
    const float *values, const float *weights, int64_t groups, int64_t group, int bits, const float *ends,
    int64_t tries, float *scales) {
    search(values, weights, groups, group, bits, ends, tries, scales);
}
#endif

/* For [groups, group] values, `group` in a multiple of 8, and a weight for each of a group: [groups] scales. */
void mull_search(
    const float *values, const float *weights, int64_t groups, int64_t group, int bits, const float *ends,
    int64_t tries, float *scales) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) {
        search_avx2(values, weights, groups, group, bits, ends, tries, scales);
        return;
    }
#endif
    search(values, weights, groups, group, bits, ends, tries, scales);
}
