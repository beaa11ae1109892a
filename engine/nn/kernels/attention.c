/* From a layer's queries, keys and values to its attention, over pages, in float32. Called by paged.py.
 *
 * Each token is computed by itself, head by head: the same additions in the same order whatever is computed beside
 * it, wherever its pages lie, on however many threads. The file includes itself, as cpu.c does.
 */
#ifndef ISA

#include <math.h>
#include <stdlib.h>

#include "threads.h"
#include "vectors.h"

enum {
    PAGE = 64,              /* tokens */
    FEW = 1024,             /* keys whose scores lie on the stack */
    WORTH_WAKING = 1 << 19, /* multiplications below which a second thread comes too late */
};

/* Where keys and values lie, and how a model's heads are, as `_Cache` in paged.py. */
typedef struct {
    float *keys, *values;                  /* [layers, kv_heads, pages, PAGE, width] */
    int64_t heads, kv_heads, width, slots; /* width in a multiple of 16 */
} Cache;

/* A forward's tokens, as `_Tokens` in paged.py: where each is, and the pages of its sequence. */
typedef struct {
    const int64_t *positions; /* [count] */
    const int64_t *begins;    /* [count]: where its sequence's pages begin in `tables` */
    const int64_t *tables;
    int64_t count, longest; /* keys of the token that has most */
} Tokens;

/* Queries of one token lie width after width; those of the next are `stride` further on. */
typedef struct {
    const Cache *cache;
    const Tokens *tokens;
    int64_t layer, stride, window; /* keys that a token sees, itself among them; 0 for all */
    const float *queries;
    float *out; /* [count, heads, width] */
    float scale;
} Attention;

static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t padded(int64_t keys) { return (keys + 3 + 15) / 16 * 16; }

#define ISA plain
#include __FILE__

#if defined(__x86_64__)
#define ISA avx2
#include __FILE__
#define ISA avx512
#include __FILE__
#elif defined(__aarch64__)
#define ISA neon
#include __FILE__
#endif

/* Attention of all tokens, whose keys and values are in the pages. */
void mull_attend(const Cache *cache, const Tokens *tokens, int64_t layer, const float *queries, int64_t stride,
                 float *out, float scale, int64_t window, int isa, int threads) {
    const Attention a = {cache, tokens, layer, stride, window, queries, out, scale};
    Chunk *attend = attend_plain;
#if defined(__x86_64__)
    if (isa == AVX2) attend = attend_avx2;
    if (isa == AVX512) attend = attend_avx512;
#elif defined(__aarch64__)
    if (isa == NEON) attend = attend_neon;
#endif
    if (tokens->count * tokens->longest * cache->heads * cache->width < WORTH_WAKING) threads = 1;
    in_chunks(attend, &a, tokens->count, threads);
}

#else /* ISA: once for each instruction set */

/* Scores of 1 or 2 heads with `count` keys that lie one after another; up to three more are written beyond. */
INLINE void FOR(score)(int heads, const float *query, const float *keys, int64_t count, int64_t width, float *out,
                       int64_t out_stride) {
    for (int64_t at = 0; at < count; at += 4) {
        V sum[8];
        for (int i = 0; i < 4 * heads; i++) sum[i] = FOR(all)(0);
        for (int64_t d = 0; d < width; d += W)
            for (int k = 0; k < 4; k++) {
                V key = FOR(load)(keys + smaller(at + k, count - 1) * width + d);
                for (int h = 0; h < heads; h++)
                    sum[4 * h + k] = FOR(fma)(FOR(load)(query + h * width + d), key, sum[4 * h + k]);
            }
        for (int h = 0; h < heads; h++) FOR(sums)(sum + 4 * h, out + h * out_stride + at);
    }
}

/* e^x for x <= 0, to a few units in the last place: 2^n times a polynomial (Cephes' expf, Moshier 1992). */
INLINE V FOR(exponential)(V x) {
    const V magic = FOR(all)(12582912.0f + 127.0f);
    x = FOR(max)(FOR(all)(-87.0f), x);
    V t = FOR(fma)(x, FOR(all)(1.44269504f), magic);
    V n = FOR(fma)(magic, FOR(all)(-1), t), r, p;
    r = FOR(fma)(n, FOR(all)(-0.693359375f), x);
    r = FOR(fma)(n, FOR(all)(2.12194440e-4f), r);
    p = FOR(fma)(FOR(all)(1.9875691500e-4f), r, FOR(all)(1.3981999507e-3f));
    p = FOR(fma)(p, r, FOR(all)(8.3334519073e-3f));
    p = FOR(fma)(p, r, FOR(all)(4.1665795894e-2f));
    p = FOR(fma)(p, r, FOR(all)(1.6666665459e-1f));
    p = FOR(fma)(p, r, FOR(all)(5.0000001201e-1f));
    p = FOR(fma)(p, FOR(mul)(r, r), FOR(fma)(FOR(all)(1), r, FOR(all)(1)));
    return FOR(mul)(p, FOR(power)(t));
}

/* Scores to shares that are still to be divided by their sum, which it returns. */
INLINE float FOR(shares)(float *scores, int64_t count, float scale) {
    float most = scores[0], parts[W];
    int64_t end = padded(count);
    for (int64_t at = 1; at < count; at++) most = scores[at] > most ? scores[at] : most;
    for (int64_t at = count; at < end; at++) scores[at] = -INFINITY;
    V sum = FOR(all)(0), shift = FOR(all)(-most * scale);
    for (int64_t at = 0; at < end; at += W) {
        V share = FOR(exponential)(FOR(fma)(FOR(load)(scores + at), FOR(all)(scale), shift));
        FOR(store)(scores + at, share);
        sum = FOR(fma)(FOR(all)(1), share, sum);
    }
    FOR(store)(parts, sum);
    float total = 0;
    for (int i = 0; i < W; i++) total += parts[i];
    return total;
}

/* Of 1 or 2 heads: the values of a token's keys from the first on, each times its share; `parts` vectors of each. */
INLINE void FOR(mix)(int heads, int parts, const float *values, const int64_t *table, int64_t first, int64_t total,
                     int64_t width, const float *shares, int64_t shares_stride, const float *inverse, float *out) {
    V sum[8];
    for (int i = 0; i < heads * parts; i++) sum[i] = FOR(all)(0);
    for (int64_t from = first; from < total;) {
        int64_t end = smaller(total, (from / PAGE + 1) * PAGE);
        const float *value = values + (table[from / PAGE] * PAGE + from % PAGE) * width;
        for (; from < end; from++, value += width)
            for (int h = 0; h < heads; h++) {
                V share = FOR(all)(shares[h * shares_stride + from - first]);
                for (int i = 0; i < parts; i++)
                    sum[h * parts + i] = FOR(fma)(FOR(load)(value + i * W), share, sum[h * parts + i]);
            }
    }
    for (int h = 0; h < heads; h++)
        for (int i = 0; i < parts; i++)
            FOR(store)(out + h * width + i * W, FOR(mul)(sum[h * parts + i], FOR(all)(inverse[h])));
}

/* 1 or 2 heads of a token that have the same keys. `scores` has room for two rows of them, padded. */
INLINE void FOR(attend_heads)(int heads, const Attention *a, int64_t token, int64_t head, float *scores) {
    const Cache *c = a->cache;
    const int64_t *table = a->tokens->tables + a->tokens->begins[token];
    int64_t total = a->tokens->positions[token] + 1, first = a->window && total > a->window ? total - a->window : 0;
    int64_t lane = (a->layer * c->kv_heads + head / (c->heads / c->kv_heads)) * c->slots * c->width;
    int64_t stride = padded(total - first);
    float inverse[2];
    const float *query = a->queries + token * a->stride + head * c->width;
    float *out = a->out + (token * c->heads + head) * c->width;
    for (int64_t from = first; from < total;) {
        int64_t end = smaller(total, (from / PAGE + 1) * PAGE);
        const float *keys = c->keys + lane + (table[from / PAGE] * PAGE + from % PAGE) * c->width;
        FOR(score)(heads, query, keys, end - from, c->width, scores + from - first, stride);
        from = end;
    }
    for (int h = 0; h < heads; h++)
        inverse[h] = 1 / FOR(shares)(scores + h * stride, total - first, a->scale);
    const float *values = c->values + lane;
    int64_t d = 0;
    for (; d + 4 * W <= c->width; d += 4 * W)
        FOR(mix)(heads, 4, values + d, table, first, total, c->width, scores, stride, inverse, out + d);
    for (; d < c->width; d += W)
        FOR(mix)(heads, 1, values + d, table, first, total, c->width, scores, stride, inverse, out + d);
}

TARGET static void FOR(attend)(const void *task, int64_t token) {
    const Attention *a = task;
    int64_t heads = a->cache->heads, sharing = heads / a->cache->kv_heads;
    int64_t keys = a->tokens->positions[token] + 1, room = 2 * padded(keys);
    float few[2 * FEW], *scores = room <= 2 * FEW ? few : malloc(room * sizeof *scores);
    if (!scores) { /* what is no number is noticed, and ends the answer */
        for (int64_t i = 0; i < heads * a->cache->width; i++) a->out[token * heads * a->cache->width + i] = NAN;
        return;
    }
    for (int64_t head = 0; head < heads; head += sharing)
        for (int64_t h = 0; h < sharing; h += 2) {
            if (h + 2 <= sharing) FOR(attend_heads)(2, a, token, head + h, scores);
            else FOR(attend_heads)(1, a, token, head + h, scores);
        }
    if (scores != few) free(scores);
}

#undef ISA
#endif
