/* Threads that share a product: a call takes all or none of them, so that calls from several threads don't wait for each other.
 *
 * A thread waits in a loop for as long as AWAKE after its last work, then sleeps. Nobody waits for one that sleeps: the calling
 * thread does the shares that nobody has begun. What a share is does not depend on who does it, so results have the same bits on
 * any number of threads, and the weights of a share stay in the cache of the core that reads them each time.
 */
#ifndef EDGESEQ_THREADS_H
#define EDGESEQ_THREADS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

#define MOST_THREADS 64
#define AWAKE 100000 /* nanoseconds */

typedef void share_of_work(const void *job, int64_t share, int64_t shares);

enum { DONE, OPEN, TAKEN };

typedef struct {
    _Alignas(128) _Atomic int state; /* of the share that is this thread's */
    _Atomic int asleep;
} helper;

static struct {
    helper helpers[MOST_THREADS]; /* the first is the calling thread's and not used */
    pthread_mutex_t in_use, falling_asleep;
    pthread_cond_t woken;
    int64_t started;
    share_of_work *work;
    const void *job;
    int64_t shares;
} crew = {
    .in_use = PTHREAD_MUTEX_INITIALIZER,
    .falling_asleep = PTHREAD_MUTEX_INITIALIZER,
    .woken = PTHREAD_COND_INITIALIZER,
    .started = 1,
};

/* Threads that this one's call may use, itself included. */
static _Thread_local int64_t threads_at_hand = 1;

static inline void pause_a_moment(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* Do a share if nobody has begun it. */
static int take(int64_t share) {
    int open = OPEN;
    _Atomic int *state = &crew.helpers[share].state;
    if (!atomic_compare_exchange_strong_explicit(state, &open, TAKEN, memory_order_acquire, memory_order_relaxed)) return 0;
    crew.work(crew.job, share, crew.shares);
    atomic_store_explicit(state, DONE, memory_order_release);
    return 1;
}

static void *helping(void *argument) {
    const int64_t own = (int64_t)(intptr_t)argument;
    helper *self = &crew.helpers[own];
    for (;;) {
        int64_t end = nanoseconds() + AWAKE;
        while (nanoseconds() < end)
            for (int i = 0; i < 32; i++) {
                if (atomic_load_explicit(&self->state, memory_order_relaxed) == OPEN && take(own)) {
                    end = nanoseconds() + AWAKE;
                    i = 0;
                }
                pause_a_moment();
            }
        pthread_mutex_lock(&crew.falling_asleep);
        atomic_store(&self->asleep, 1);
        while (atomic_load(&self->asleep)) pthread_cond_wait(&crew.woken, &crew.falling_asleep);
        pthread_mutex_unlock(&crew.falling_asleep);
    }
    return NULL;
}

static void wake(void) {
    int sleeping = 0;
    for (int64_t i = 1; i < threads_at_hand; i++) sleeping |= atomic_load_explicit(&crew.helpers[i].asleep, memory_order_relaxed);
    if (!sleeping) return;
    pthread_mutex_lock(&crew.falling_asleep);
    for (int64_t i = 1; i < threads_at_hand; i++) atomic_store(&crew.helpers[i].asleep, 0);
    pthread_cond_broadcast(&crew.woken);
    pthread_mutex_unlock(&crew.falling_asleep);
}

/* Take the crew for a call on so many threads, if nobody else has it. */
static void gather_crew(int64_t threads) {
    if (threads < 2 || pthread_mutex_trylock(&crew.in_use)) return;
    threads_at_hand = threads < MOST_THREADS ? threads : MOST_THREADS;
    for (; crew.started < threads_at_hand; crew.started++) {
        pthread_t made;
        if (pthread_create(&made, NULL, helping, (void *)(intptr_t)crew.started)) break;
        pthread_detach(made);
    }
    wake();
}

static void dismiss_crew(void) {
    if (threads_at_hand < 2) return;
    threads_at_hand = 1;
    pthread_mutex_unlock(&crew.in_use);
}

/* Every share of some work, by all threads at hand. Large work is worth the time that waking takes. */
static void share_out(share_of_work *work, const void *job, int64_t shares, int large) {
    if (large) wake();
    crew.work = work, crew.job = job, crew.shares = shares;
    for (int64_t i = 1; i < shares; i++) atomic_store_explicit(&crew.helpers[i].state, OPEN, memory_order_release);
    work(job, 0, shares);
    for (int64_t i = 1; i < shares; i++) take(i);
    for (int64_t i = 1; i < shares; i++)
        while (atomic_load_explicit(&crew.helpers[i].state, memory_order_acquire) != DONE) pause_a_moment();
}

#endif
