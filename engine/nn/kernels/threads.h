/* Work in chunks for the caller and helpers that sleep between two calls. */
#ifndef THREADS_H
#define THREADS_H

#include <stdint.h>

typedef void Chunk(const void *task, int64_t number);

/* Does the chunks 0 to `chunks` of a task, in whatever order, on at most so many threads. */
void in_chunks(Chunk *chunk, const void *task, int64_t chunks, int threads);

#endif
