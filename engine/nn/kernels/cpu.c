/* y = x W^T on a processor, for W in few bits (engine/nn/quantized.py). Built by build.py, called by cpu.py.
 *
 * A weight is scale * (code - zero): the very float that `Quantized.dequantize` makes, where scales are halves and
 * zeros integers. For a single row it is never written to memory. An output is the sum, over every DEPTH inputs, of
 * the lanes of one vector that ran along them: the same additions in the same order whatever rows and outputs are
 * computed beside it, on however many threads. They differ between instruction sets, whose vectors differ in width.
 *
 * The file includes itself: the part under ISA is compiled once for each instruction set.
 */
#ifndef ISA

#include <math.h>

#include "threads.h"
#include "vectors.h"

enum { U4, S8, F8, DENSE };

enum {
    UNIT_BYTES = 16, /* of codes, decoded at once: 32 inputs of U4, 16 of the others */
    DEPTH = 1024,    /* inputs whose decoded weights stay in the cache */
    OUTPUTS = 4,     /* computed side by side */
    PANEL = 64,      /* rows for which weights are decoded anew: their activations stay in the cache */
    CHUNK = 32,      /* outputs that a thread takes at a time */
    WORTH_WAKING = 1 << 19, /* multiplications below which a second thread comes too late */
};

/* Matrices of one size that lie one after another without gaps, as `_Matrix` in cpu.py. */
typedef struct {
    const uint8_t *codes;          /* [matrices, outputs, bytes] */
    const uint8_t *scales, *zeros; /* [matrices, outputs, groups], float, or half where `half`; zeros may be NULL */
    int64_t inputs, outputs, group; /* inputs in a multiple of a unit, group too where there are several */
    int32_t kind, half;
} Matrix;

/* Rows begins[i] to begins[i + 1] are multiplied with the matrix chosen[i]. */
typedef struct {
    const Matrix *matrix;
    const float *x; /* [rows, inputs] */
    float *y;       /* [rows, outputs] */
    const int64_t *chosen, *begins;
    int64_t products;
} Product;

static float e4m3[256];

__attribute__((constructor)) static void fill_e4m3(void) {
    for (int code = 0; code < 256; code++) {
        int exponent = code >> 3 & 15, mantissa = code & 7;
        float size = exponent ? ldexpf((float)(8 + mantissa), exponent - 10) : ldexpf((float)mantissa, -9);
        if ((code & 127) == 127) size = NAN;
        e4m3[code] = code & 128 ? -size : size;
    }
}

static inline float half_to_float(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = half & 0x7fff, bits;
    float value;
    if (rest < 0x0400) return (sign ? -1.0f : 1.0f) * (float)rest * 0x1p-24f;
    bits = sign | ((rest << 13) + (rest < 0x7c00 ? 112u << 23 : 224u << 23));
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t chunks_across(const Product *p) { return (p->matrix->outputs + CHUNK - 1) / CHUNK; }

/* ---- What differs between instruction sets: how codes become vectors of floats ---- */

#define ISA plain
static inline float half_plain(const uint16_t *p) { return half_to_float(*p); }
static inline void u4_plain(const uint8_t *c, V_plain *w) {
    float f[32];
    for (int i = 0; i < 16; i++) f[i] = (float)(c[i] & 15), f[i + 16] = (float)(c[i] >> 4);
    memcpy(w, f, sizeof f);
}
static inline void s8_plain(const uint8_t *c, V_plain *w) {
    float f[16];
    for (int i = 0; i < 16; i++) f[i] = (float)(int8_t)c[i];
    memcpy(w, f, sizeof f);
}
static inline void f8_plain(const uint8_t *c, V_plain *w) {
    float f[16];
    for (int i = 0; i < 16; i++) f[i] = e4m3[c[i]];
    memcpy(w, f, sizeof f);
}
#define ROWS 3
#include __FILE__

#if defined(__x86_64__)

#define ISA avx2
INLINE float half_avx2(const uint16_t *p) { return _cvtsh_ss(*p); }
INLINE void u4_avx2(const uint8_t *c, V_avx2 *w) {
    for (int i = 0; i < 2; i++) {
        __m256i bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(c + 8 * i)));
        w[i] = _mm256_cvtepi32_ps(_mm256_and_si256(bytes, _mm256_set1_epi32(15)));
        w[i + 2] = _mm256_cvtepi32_ps(_mm256_srli_epi32(bytes, 4));
    }
}
INLINE void s8_avx2(const uint8_t *c, V_avx2 *w) {
    for (int i = 0; i < 2; i++)
        w[i] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(c + 8 * i))));
}
/* As halves, whose exponents are 8 more; 0x7f, which is no number, becomes one that is none either. */
INLINE __m256i halves_of_f8(const uint8_t *c) {
    __m256i wide = _mm256_slli_epi16(_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)c)), 7);
    __m256i nan = _mm256_cmpgt_epi16(_mm256_and_si256(wide, _mm256_set1_epi16(0x3f80)), _mm256_set1_epi16(0x3f00));
    return _mm256_or_si256(_mm256_and_si256(wide, _mm256_set1_epi16((int16_t)0xbf80)), nan);
}
INLINE void f8_avx2(const uint8_t *c, V_avx2 *w) {
    __m256i halves = halves_of_f8(c);
    w[0] = mul_avx2(_mm256_cvtph_ps(_mm256_castsi256_si128(halves)), all_avx2(256));
    w[1] = mul_avx2(_mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1)), all_avx2(256));
}
#define ROWS 3
#include __FILE__

#define ISA avx512
INLINE float half_avx512(const uint16_t *p) { return _cvtsh_ss(*p); }
INLINE void u4_avx512(const uint8_t *c, V_avx512 *w) {
    __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)c));
    w[0] = _mm512_cvtepi32_ps(_mm512_and_si512(bytes, _mm512_set1_epi32(15)));
    w[1] = _mm512_cvtepi32_ps(_mm512_srli_epi32(bytes, 4));
}
INLINE void s8_avx512(const uint8_t *c, V_avx512 *w) {
    w[0] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)c)));
}
INLINE void f8_avx512(const uint8_t *c, V_avx512 *w) {
    w[0] = mul_avx512(_mm512_cvtph_ps(halves_of_f8(c)), all_avx512(256));
}
#define ROWS 6
#include __FILE__

#elif defined(__aarch64__)

#define ISA neon
INLINE float half_neon(const uint16_t *p) { __fp16 h; memcpy(&h, p, sizeof h); return (float)h; }
INLINE void u4_neon(const uint8_t *c, V_neon *w) {
    uint8x16_t bytes = vld1q_u8(c), nibbles[2] = {vandq_u8(bytes, vdupq_n_u8(15)), vshrq_n_u8(bytes, 4)};
    for (int i = 0; i < 2; i++) {
        uint16x8_t low = vmovl_u8(vget_low_u8(nibbles[i])), high = vmovl_u8(vget_high_u8(nibbles[i]));
        w[4 * i] = vcvtq_f32_u32(vmovl_u16(vget_low_u16(low)));
        w[4 * i + 1] = vcvtq_f32_u32(vmovl_u16(vget_high_u16(low)));
        w[4 * i + 2] = vcvtq_f32_u32(vmovl_u16(vget_low_u16(high)));
        w[4 * i + 3] = vcvtq_f32_u32(vmovl_u16(vget_high_u16(high)));
    }
}
INLINE void s8_neon(const uint8_t *c, V_neon *w) {
    int8x16_t bytes = vld1q_s8((const int8_t *)c);
    int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_s8(vget_high_s8(bytes));
    w[0] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(low)));
    w[1] = vcvtq_f32_s32(vmovl_s16(vget_high_s16(low)));
    w[2] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(high)));
    w[3] = vcvtq_f32_s32(vmovl_s16(vget_high_s16(high)));
}
INLINE void f8_neon(const uint8_t *c, V_neon *w) {
    for (int i = 0; i < 4; i++)
        w[i] = (V_neon){e4m3[c[4 * i]], e4m3[c[4 * i + 1]], e4m3[c[4 * i + 2]], e4m3[c[4 * i + 3]]};
}
#define ROWS 5
#include __FILE__

#endif

/* ---- What is called from outside ---- */

/* Whether this processor has an instruction set. */
int mull_has(int isa) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (isa == AVX2)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    if (isa == AVX512) return mull_has(AVX2) && __builtin_cpu_supports("avx512f");
#elif defined(__aarch64__)
    if (isa == NEON) return 1;
#endif
    return isa == PLAIN;
}

/* y = x W^T for `rows` rows with the only matrix, or for `products` of them. */
void mull_product(const Matrix *matrix, const float *x, float *y, int64_t rows, const int64_t *chosen,
                  const int64_t *begins, int64_t products, int isa, int threads) {
    const int64_t only = 0, all[] = {0, rows};
    const Product p = {matrix, x, y, chosen ? chosen : &only, begins ? begins : all, chosen ? products : 1};
    Chunk *chunk = chunk_of_plain;
#if defined(__x86_64__)
    if (isa == AVX2) chunk = chunk_of_avx2;
    if (isa == AVX512) chunk = chunk_of_avx512;
#elif defined(__aarch64__)
    if (isa == NEON) chunk = chunk_of_neon;
#endif
    if (matrix->inputs * matrix->outputs * rows < WORTH_WAKING) threads = 1;
    in_chunks(chunk, &p, p.products * chunks_across(&p), threads);
}

#else /* ISA: once for each instruction set */

/* A matrix from some output on. */
typedef struct {
    const uint8_t *codes, *scales, *zeros;
    int64_t group, bytes, groups; /* bytes and groups of one output */
    int half;
} FOR(Rows);
#define Rows FOR(Rows)

INLINE float FOR(value)(const Rows *m, const uint8_t *values, int64_t at) {
    return m->half ? FOR(half)((const uint16_t *)values + at) : ((const float *)values)[at];
}

/* Of the group at `at`: its scale, and what is added to scale * code in place of the zero. */
INLINE void FOR(parameters)(const Rows *m, int64_t at, V *scale, V *shift) {
    float scale_ = FOR(value)(m, m->scales, at), zero = m->zeros ? FOR(value)(m, m->zeros, at) : 8;
    *scale = FOR(all)(scale_);
    *shift = FOR(all)(-zero * scale_);
}

/* 16 bytes of codes, or (DENSE) 16 weights that were decoded already. */
INLINE void FOR(unit)(int kind, int shifted, const uint8_t *codes, V scale, V shift, V *w) {
    int many = (kind == U4 ? 32 : 16) / W;
    if (kind == U4) FOR(u4)(codes, w);
    if (kind == S8) FOR(s8)(codes, w);
    if (kind == F8) FOR(f8)(codes, w);
    for (int i = 0; i < many; i++) {
        if (kind == DENSE) w[i] = FOR(load)((const float *)codes + i * W);
        else w[i] = shifted ? FOR(fma)(w[i], scale, shift) : FOR(mul)(w[i], scale);
    }
}

/* Inputs [from, to) of up to OUTPUTS outputs and of `rows` rows into y, or onto y where there is `more` than one
 * DEPTH of them. Where there are fewer outputs the last one is computed again and not written. */
INLINE void FOR(tile)(int kind, int shifted, int rows, int64_t outputs, const Rows *m, int64_t from, int64_t to,
                      const float *x, int64_t x_stride, float *y, int64_t y_stride, int more) {
    int step = kind == U4 ? 32 : 16, bytes = kind == DENSE ? 16 * sizeof(float) : UNIT_BYTES;
    int64_t group = kind == DENSE ? 0 : from / m->group, groups[OUTPUTS];
    const uint8_t *codes[OUTPUTS];
    V sum[ROWS * OUTPUTS];
    for (int o = 0; o < OUTPUTS; o++) {
        int64_t output = smaller(o, outputs - 1);
        codes[o] = m->codes + output * m->bytes + from / step * bytes;
        groups[o] = output * m->groups + group;
    }
    for (int i = 0; i < rows * OUTPUTS; i++) sum[i] = FOR(all)(0);
    for (; from < to; group++) {
        int64_t end = kind == DENSE ? to : smaller(to, (group + 1) * m->group);
        V scale[OUTPUTS], shift[OUTPUTS];
        for (int o = 0; o < OUTPUTS && kind != DENSE; o++) FOR(parameters)(m, groups[o]++, &scale[o], &shift[o]);
        for (; from < end; from += step)
            for (int o = 0; o < OUTPUTS; o++) {
                V w[32 / W];
                FOR(unit)(kind, shifted, codes[o], scale[o], shift[o], w);
                /* of the output OUTPUTS further on: lines this short end before the processor foresees more */
                if (kind != DENSE) __builtin_prefetch(codes[o] + OUTPUTS * m->bytes);
                codes[o] += bytes;
                for (int i = 0; i < step / W; i++)
                    for (int r = 0; r < rows; r++) {
                        V activation = FOR(load)(x + r * x_stride + from + i * W);
                        sum[r * OUTPUTS + o] = FOR(fma)(w[i], activation, sum[r * OUTPUTS + o]);
                    }
            }
    }
    for (int r = 0; r < rows; r++, y += y_stride) {
        float total[OUTPUTS];
        FOR(sums)(sum + r * OUTPUTS, total);
        for (int o = 0; o < smaller(OUTPUTS, outputs); o++) y[o] = more ? y[o] + total[o] : total[o];
    }
}

/* Rows of activations times weights that were decoded, [OUTPUTS, DEPTH]. */
TARGET static void FOR(dense)(int64_t rows, int64_t outputs, const float *weights, int64_t inputs, const float *x,
                              int64_t x_stride, float *y, int64_t y_stride, int more) {
    Rows m = {.codes = (const uint8_t *)weights, .bytes = DEPTH * sizeof(float)};
    while (rows > 0) {
        int64_t now = rows >= ROWS ? ROWS : smaller(rows, 3);
        switch (now) { /* constants, so that each has its own code */
        case 1: FOR(tile)(DENSE, 0, 1, outputs, &m, 0, inputs, x, x_stride, y, y_stride, more); break;
        case 2: FOR(tile)(DENSE, 0, 2, outputs, &m, 0, inputs, x, x_stride, y, y_stride, more); break;
        case 3: FOR(tile)(DENSE, 0, 3, outputs, &m, 0, inputs, x, x_stride, y, y_stride, more); break;
        default: FOR(tile)(DENSE, 0, ROWS, outputs, &m, 0, inputs, x, x_stride, y, y_stride, more);
        }
        x += now * x_stride, y += now * y_stride, rows -= now;
    }
}

/* Inputs [from, to) of some outputs as weights, [outputs, DEPTH]. */
INLINE void FOR(decode)(int kind, int shifted, int64_t outputs, const Rows *m, int64_t from, int64_t to,
                        float *weights) {
    int step = kind == U4 ? 32 : 16;
    for (int64_t o = 0; o < outputs; o++, weights += DEPTH) {
        const uint8_t *codes = m->codes + o * m->bytes + from / step * UNIT_BYTES;
        for (int64_t at = from, group = from / m->group; at < to; group++) {
            int64_t end = smaller(to, (group + 1) * m->group);
            V scale, shift;
            FOR(parameters)(m, o * m->groups + group, &scale, &shift);
            for (; at < end; at += step, codes += UNIT_BYTES) {
                V w[32 / W];
                FOR(unit)(kind, shifted, codes, scale, shift, w);
                for (int i = 0; i < step / W; i++) FOR(store)(weights + at - from + i * W, w[i]);
            }
        }
    }
}

/* One row straight from the codes, more from weights that are decoded once for PANEL rows. */
INLINE void FOR(chunk)(int kind, int shifted, const Product *p, int64_t product, int64_t first, int64_t last) {
    const Matrix *all = p->matrix;
    int64_t inputs = all->inputs, before = p->chosen[product] * all->outputs, stop = p->begins[product + 1];
    int64_t bytes = kind == U4 ? inputs / 2 : inputs, groups = (inputs + all->group - 1) / all->group;
    float weights[OUTPUTS * DEPTH] __attribute__((aligned(64)));
    for (int64_t begin = p->begins[product]; begin < stop; begin += PANEL) {
        int64_t rows = smaller(PANEL, stop - begin);
        const float *x = p->x + begin * inputs;
        for (int64_t output = first; output < last; output += OUTPUTS) {
            int64_t outputs = smaller(OUTPUTS, last - output);
            int64_t values = (before + output) * groups * (all->half ? 2 : 4);
            float *y = p->y + begin * all->outputs + output;
            Rows m = {
                all->codes + (before + output) * bytes, all->scales + values,
                all->zeros ? all->zeros + values : NULL, all->group, bytes, groups, all->half,
            };
            for (int64_t from = 0; from < inputs; from += DEPTH) {
                int64_t to = smaller(from + DEPTH, inputs);
                if (rows == 1) {
                    FOR(tile)(kind, shifted, 1, outputs, &m, from, to, x, 0, y, 0, from > 0);
                } else {
                    FOR(decode)(kind, shifted, outputs, &m, from, to, weights);
                    FOR(dense)(rows, outputs, weights, to - from, x + from, inputs, y, all->outputs, from > 0);
                }
            }
        }
    }
}

TARGET static void FOR(chunk_of)(const void *task, int64_t number) {
    const Product *p = task;
    int64_t across = chunks_across(p), product = number / across, first = number % across * CHUNK;
    int64_t last = smaller(first + CHUNK, p->matrix->outputs);
    int kind = p->matrix->kind, shifted = p->matrix->zeros != NULL;
    if (kind == U4) FOR(chunk)(U4, 1, p, product, first, last);
    else if (kind == S8 && shifted) FOR(chunk)(S8, 1, p, product, first, last);
    else if (kind == S8) FOR(chunk)(S8, 0, p, product, first, last);
    else if (shifted) FOR(chunk)(F8, 1, p, product, first, last);
    else FOR(chunk)(F8, 0, p, product, first, last);
}

#undef Rows
#undef ISA
#undef ROWS
#endif
