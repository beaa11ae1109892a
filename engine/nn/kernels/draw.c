/* Which token is drawn: Gumbel-max with the noise of engine/runtime/sampler.py, of which this is the loop. */
#include <math.h>
#include <stdint.h>

enum { ROUNDS = 10 };

/* The first word of Philox 4x32-10 (Salmon et al. 2011). */
static inline uint32_t philox(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint64_t seed) {
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t p0 = (uint64_t)c0 * 0xD2511F53u, p1 = (uint64_t)c2 * 0xCD9E8D57u;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1, c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    return c0;
}

/* The index of the largest score plus noise of `count` > 0 ids at a position on a path; of equal ones the first. */
int64_t mull_draw(const int64_t *ids, const double *scores, int64_t count, int64_t position, uint64_t path,
                  uint64_t seed) {
    double best = -INFINITY;
    int64_t found = 0;
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits = philox((uint32_t)ids[i], (uint32_t)position, (uint32_t)path, (uint32_t)(path >> 32), seed);
        /* Noise above x > 0 needs a uniform u with 1 - u < e^-x: nearly all are out of the running by that, which
         * takes no logarithm. What 2^-doublings is less than e^-x, by rounding, is given away here. */
        double short_of = best - scores[i] - 1e-6;
        if (short_of > 0) {
            double doublings = floor(short_of * 1.4426950);
            if (doublings > 33 || 4294967296.0 - bits - 0.5 >= ldexp(1, 32 - (int)doublings)) continue;
        }
        double score = scores[i] - log(-log(((double)bits + 0.5) / 4294967296.0));
        if (score > best) best = score, found = i;
    }
    return found;
}
