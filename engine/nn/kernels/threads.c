/* Threads that sleep between two calls, and are not waited for where they come too late (threads.h). */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>

#include "threads.h"

enum { THREADS = 64 };

typedef struct {
    Chunk *chunk;
    const void *task;
    int64_t chunks;
} Work;

static pthread_mutex_t busy = PTHREAD_MUTEX_INITIALIZER; /* held by the caller whom the helpers serve */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards what follows */
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static int helpers, wanted;
static const Work *offered; /* NULL where there is nothing (more) to join */
static atomic_int joined;
static atomic_llong next_chunk;

static void take_chunks(const Work *work) {
    long long number;
    while ((number = atomic_fetch_add(&next_chunk, 1)) < work->chunks) work->chunk(work->task, number);
}

static void *help(void *unused) {
    (void)unused;
    pthread_mutex_lock(&lock);
    for (;;) {
        while (!offered || !wanted) pthread_cond_wait(&wake, &lock);
        const Work *work = offered;
        wanted--;
        atomic_fetch_add(&joined, 1);
        pthread_mutex_unlock(&lock);
        take_chunks(work);
        atomic_fetch_sub(&joined, 1);
        pthread_mutex_lock(&lock);
    }
    return NULL;
}

static void forget_helpers(void) { /* a forked child has none */
    pthread_mutex_init(&busy, NULL);
    pthread_mutex_init(&lock, NULL);
    pthread_cond_init(&wake, NULL);
    helpers = wanted = 0;
    offered = NULL;
    atomic_store(&joined, 0);
}

static void start_helpers(int count) {
    static int told;
    pthread_attr_t detached;
    if (!told) told = 1, pthread_atfork(NULL, NULL, forget_helpers);
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    while (helpers < count) {
        pthread_t thread;
        if (pthread_create(&thread, &detached, help, NULL)) break;
        helpers++;
    }
    pthread_attr_destroy(&detached);
}

/* Helpers that are late find nothing to do; nobody waits for them. */
static void together(const Work *work, int threads) {
    pthread_mutex_lock(&lock);
    start_helpers(threads - 1);
    atomic_store(&next_chunk, 0);
    offered = work, wanted = threads - 1;
    pthread_mutex_unlock(&lock);
    if (threads == 2) pthread_cond_signal(&wake);
    else pthread_cond_broadcast(&wake);
    take_chunks(work);
    pthread_mutex_lock(&lock);
    offered = NULL;
    pthread_mutex_unlock(&lock);
    for (int spins = 0; atomic_load(&joined); spins++) /* at most what is left of one chunk */
        if (spins > 1000) sched_yield();
}

void in_chunks(Chunk *chunk, const void *task, int64_t chunks, int threads) {
    const Work work = {chunk, task, chunks};
    if (threads > 1 && pthread_mutex_trylock(&busy) == 0) {
        together(&work, threads < THREADS ? threads : THREADS);
        pthread_mutex_unlock(&busy);
    } else {
        for (int64_t number = 0; number < chunks; number++) chunk(task, number);
    }
}
