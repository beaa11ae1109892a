/* Vectors of W floats for each instruction set, and what is done with them. A file that computes with them includes
 * itself once for each set, with ISA defined: FOR(name) is then that set's.
 */
#ifndef VECTORS_H
#define VECTORS_H

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

enum { PLAIN, AVX2, AVX512, NEON };

#define JOIN_(name, isa) name##_##isa
#define JOIN(name, isa) JOIN_(name, isa)
#define FOR(name) JOIN(name, ISA)
#define TARGET FOR(TARGET)
#define INLINE TARGET static inline __attribute__((always_inline, unused))
#define V FOR(V)
#define W FOR(W)

/* sums: of four vectors, each one's sum. power: 2^n of t = n + 127 + 1.5 * 2^23, whose lowest bits are n + 127.
 * max: the second where one of the two is no number. */

#define ISA plain
#define TARGET_plain
enum { W_plain = 4 };
typedef float V_plain __attribute__((vector_size(16)));
INLINE V_plain load_plain(const float *p) { V_plain v; memcpy(&v, p, sizeof v); return v; }
INLINE void store_plain(float *p, V_plain v) { memcpy(p, &v, sizeof v); }
INLINE V_plain all_plain(float f) { return (V_plain){f, f, f, f}; }
INLINE V_plain mul_plain(V_plain a, V_plain b) { return a * b; }
INLINE V_plain fma_plain(V_plain a, V_plain b, V_plain c) { return a * b + c; }
INLINE V_plain max_plain(V_plain a, V_plain b) {
    for (int i = 0; i < 4; i++) b[i] = a[i] > b[i] ? a[i] : b[i];
    return b;
}
INLINE V_plain power_plain(V_plain t) {
    uint32_t bits[4];
    memcpy(bits, &t, sizeof bits);
    for (int i = 0; i < 4; i++) bits[i] <<= 23;
    memcpy(&t, bits, sizeof bits);
    return t;
}
INLINE void sums_plain(const V_plain *v, float *out) {
    for (int o = 0; o < 4; o++) out[o] = (v[o][0] + v[o][1]) + (v[o][2] + v[o][3]);
}
#undef ISA

#if defined(__x86_64__)

#define ISA avx2
#define TARGET_avx2 __attribute__((target("avx2,fma,f16c")))
enum { W_avx2 = 8 };
typedef __m256 V_avx2;
INLINE V_avx2 load_avx2(const float *p) { return _mm256_loadu_ps(p); }
INLINE void store_avx2(float *p, V_avx2 v) { _mm256_storeu_ps(p, v); }
INLINE V_avx2 all_avx2(float f) { return _mm256_set1_ps(f); }
INLINE V_avx2 mul_avx2(V_avx2 a, V_avx2 b) { return _mm256_mul_ps(a, b); }
INLINE V_avx2 fma_avx2(V_avx2 a, V_avx2 b, V_avx2 c) { return _mm256_fmadd_ps(a, b, c); }
INLINE V_avx2 max_avx2(V_avx2 a, V_avx2 b) { return _mm256_max_ps(a, b); }
INLINE V_avx2 power_avx2(V_avx2 t) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(t), 23)); }
INLINE void sums_avx2(const V_avx2 *v, float *out) {
    __m256 s = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1)));
}
#undef ISA

#define ISA avx512
#define TARGET_avx512 __attribute__((target("avx512f,avx2,fma,f16c")))
enum { W_avx512 = 16 };
typedef __m512 V_avx512;
INLINE V_avx512 load_avx512(const float *p) { return _mm512_loadu_ps(p); }
INLINE void store_avx512(float *p, V_avx512 v) { _mm512_storeu_ps(p, v); }
INLINE V_avx512 all_avx512(float f) { return _mm512_set1_ps(f); }
INLINE V_avx512 mul_avx512(V_avx512 a, V_avx512 b) { return _mm512_mul_ps(a, b); }
INLINE V_avx512 fma_avx512(V_avx512 a, V_avx512 b, V_avx512 c) { return _mm512_fmadd_ps(a, b, c); }
INLINE V_avx512 max_avx512(V_avx512 a, V_avx512 b) { return _mm512_max_ps(a, b); }
INLINE V_avx512 power_avx512(V_avx512 t) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(t), 23));
}
INLINE void sums_avx512(const V_avx512 *v, float *out) {
    for (int o = 0; o < 4; o++) out[o] = _mm512_reduce_add_ps(v[o]);
}
#undef ISA

#elif defined(__aarch64__)

#define ISA neon
#define TARGET_neon
enum { W_neon = 4 };
typedef float32x4_t V_neon;
INLINE V_neon load_neon(const float *p) { return vld1q_f32(p); }
INLINE void store_neon(float *p, V_neon v) { vst1q_f32(p, v); }
INLINE V_neon all_neon(float f) { return vdupq_n_f32(f); }
INLINE V_neon mul_neon(V_neon a, V_neon b) { return vmulq_f32(a, b); }
INLINE V_neon fma_neon(V_neon a, V_neon b, V_neon c) { return vfmaq_f32(c, a, b); }
INLINE V_neon max_neon(V_neon a, V_neon b) { return vmaxq_f32(a, b); } /* no number where one of them is none */
INLINE V_neon power_neon(V_neon t) { return vreinterpretq_f32_s32(vshlq_n_s32(vreinterpretq_s32_f32(t), 23)); }
INLINE void sums_neon(const V_neon *v, float *out) {
    for (int o = 0; o < 4; o++) out[o] = vaddvq_f32(v[o]);
}
#undef ISA

#endif
#endif
