/* An emulated CUDA runtime: device memory is host memory, and no GPU is needed. It is strict where a GPU would go wrong silently.

 * Work that is queued on a stream is done when the stream is waited for, not before: who forgets to wait reads old values.
 * Addresses on the device can't be read by the host; copies are checked against what is allocated, and host memory must be pinned.
 * A captured graph holds what was queued while capturing, which is not done then; allocating or waiting while capturing ends it.
 * Every call is counted, and any can be made to fail.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, ILLEGAL_ADDRESS = 700, UNSUPPORTED = 900, INVALIDATED = 901 };
enum { COPY, SET, CALL };
#define MOST 65536
#define DEVICE 0xD000000000000000ull

typedef struct { uint64_t address; char *memory; size_t size; int live, device; } Block;
typedef struct { int kind; uint64_t target, source; size_t size; int direction; void (*call)(long); long token; } Work;
typedef struct { Work *work; long count, room; } List;
typedef struct { List queue; List *capturing; int invalid, live; pthread_t thread; } Stream;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Block blocks[MOST];
static long number_of_blocks;
static uint64_t next_address = DEVICE;
static char gpu[256] = "Emulated GPU";
static int capability[2] = {8, 7}, versions[2] = {12060, 12060};
static struct { char name[64]; long count; int code; long after; } calls[64];
static long copied[4];
static long limit = -1;

static long called(const char *name) {
    for (int i = 0; i < 64; i++) {
        if (!calls[i].name[0]) strncpy(calls[i].name, name, 63);
        if (!strcmp(calls[i].name, name)) return i;
    }
    abort();
}
static int begin(const char *name) {
    pthread_mutex_lock(&lock);
    long i = called(name);
    calls[i].count++;
    if (calls[i].code && calls[i].after-- <= 0) {
        int code = calls[i].code;
        calls[i].code = 0;
        return code;
    }
    return SUCCESS;
}
static int end(int code) { pthread_mutex_unlock(&lock); return code; }
#define BEGIN int failed = begin(__func__); if (failed) return end(failed)

/* For tests. */
long emulated_count(const char *name) { pthread_mutex_lock(&lock); long n = calls[called(name)].count; end(0); return n; }
long emulated_copied(int direction) { return copied[direction]; }
void emulated_fail(const char *name, int code, long after) {
    pthread_mutex_lock(&lock);
    long i = called(name);
    calls[i].code = code;
    calls[i].after = after;
    end(0);
}
void emulated_gpu(const char *name, int major, int minor, int runtime, int driver) {
    strncpy(gpu, name, 255);
    capability[0] = major; capability[1] = minor; versions[0] = runtime; versions[1] = driver;
}
void emulated_limit(long bytes) { limit = bytes; }
long emulated_live(int device) {
    long n = 0;
    pthread_mutex_lock(&lock);
    for (long i = 0; i < number_of_blocks; i++) n += blocks[i].live && blocks[i].device == device;
    end(0);
    return n;
}

static Block *block_of(uint64_t address, size_t size, int device) {
    for (long i = number_of_blocks - 1; i >= 0; i--) {
        Block *b = &blocks[i];
        if (b->live && b->device == device && address >= b->address && address + size <= b->address + b->size) return b;
    }
    return 0;
}
static char *place(uint64_t address, size_t size, int device) {
    Block *b = block_of(address, size, device);
    return b ? b->memory + (address - b->address) : 0;
}
void *emulated_host(uint64_t address, size_t size) { pthread_mutex_lock(&lock); void *p = place(address, size, 1); end(0); return p; }
int emulated_pinned(uint64_t address, size_t size) { pthread_mutex_lock(&lock); int is = place(address, size, 0) != 0; end(0); return is; }

static Stream *capturing_here;
static int spoils(void) { /* what may not be done while this thread captures */
    if (capturing_here && pthread_equal(capturing_here->thread, pthread_self())) { capturing_here->invalid = 1; return 1; }
    return 0;
}
static int allocate(void **pointer, size_t size, int device) {
    if (spoils()) return UNSUPPORTED;
    if (number_of_blocks == MOST || (limit >= 0 && device && (long)size > limit)) return OUT_OF_MEMORY;
    Block *b = &blocks[number_of_blocks++];
    b->memory = malloc(size);
    memset(b->memory, 0xAB, size); /* what was there before */
    b->size = size; b->live = 1; b->device = device;
    b->address = device ? next_address : (uint64_t)b->memory;
    next_address += (size / 256 + 2) * 256;
    *pointer = (void *)b->address;
    return SUCCESS;
}
static int let_go(void *pointer, int device) {
    if (!pointer) return SUCCESS;
    if (spoils()) return UNSUPPORTED;
    for (long i = 0; i < number_of_blocks; i++)
        if (blocks[i].live && blocks[i].device == device && blocks[i].address == (uint64_t)pointer) {
            blocks[i].live = 0;
            free(blocks[i].memory);
            return SUCCESS;
        }
    return INVALID_VALUE;
}
static void add(List *list, Work work) {
    if (list->count == list->room) list->work = realloc(list->work, (list->room = list->room * 2 + 8) * sizeof(Work));
    list->work[list->count++] = work;
}
static int queue(Stream *s, Work work) {
    if (!s || !s->live) return INVALID_VALUE;
    if (s->invalid) return INVALIDATED;
    add(s->capturing ? s->capturing : &s->queue, work);
    return SUCCESS;
}
static int do_work(Work *w) { /* without the lock for calls, which may be Python's */
    if (w->kind == CALL) { w->call(w->token); return SUCCESS; }
    pthread_mutex_lock(&lock);
    char *target = place(w->target, w->size, w->kind == SET || w->direction != 2);
    char *source = w->kind == SET ? target : place(w->source, w->size, w->direction != 1);
    if (!target || !source) return end(ILLEGAL_ADDRESS);
    if (w->kind == SET) memset(target, (int)w->source, w->size);
    else { memcpy(target, source, w->size); copied[w->direction]++; }
    return end(SUCCESS);
}
static int flush(Stream *s) {
    List list = s->queue;
    memset(&s->queue, 0, sizeof(List));
    int code = SUCCESS;
    for (long i = 0; i < list.count && !code; i++) code = do_work(&list.work[i]);
    free(list.work);
    return code;
}
int emulated_flush(Stream *s) { return flush(s); }
int emulated_enqueue(Stream *s, void (*call)(long), long token) {
    pthread_mutex_lock(&lock);
    Work w = {CALL, 0, 0, 0, 0, call, token};
    return end(queue(s, w));
}
int emulated_capturing(Stream *s) { return s->capturing != 0; }
void emulated_spoil(Stream *s) { s->invalid = 1; }

/* CUDA's own. */
const char *cudaGetErrorString(int code) {
    switch (code) {
    case INVALID_VALUE: return "invalid argument";
    case OUT_OF_MEMORY: return "out of memory";
    case 35: return "CUDA driver version is insufficient for CUDA runtime version";
    case 100: return "no CUDA-capable device is detected";
    case ILLEGAL_ADDRESS: return "an illegal memory access was encountered";
    case UNSUPPORTED: return "operation not permitted when stream is capturing";
    case INVALIDATED: return "operation failed due to a previous error during capture";
    default: return "unrecognized error code";
    }
}
int cudaGetLastError(void) { return SUCCESS; }
int cudaRuntimeGetVersion(int *v) { BEGIN; *v = versions[0]; return end(SUCCESS); }
int cudaDriverGetVersion(int *v) { BEGIN; *v = versions[1]; return end(SUCCESS); }
int cudaGetDevice(int *device) { BEGIN; *device = 0; return end(SUCCESS); }
int cudaDeviceGetAttribute(int *value, int which, int device) {
    BEGIN;
    if (device || (which != 75 && which != 76)) return end(INVALID_VALUE);
    *value = capability[which - 75];
    return end(SUCCESS);
}
int cudaGetDeviceProperties(char *properties, int device) {
    BEGIN;
    memset(properties, 0x55, 1032); /* as much as CUDA 12 writes */
    strcpy(properties, gpu);
    return end(device ? INVALID_VALUE : SUCCESS);
}
int cudaMalloc(void **pointer, size_t size) { BEGIN; return end(allocate(pointer, size, 1)); }
int cudaFree(void *pointer) { BEGIN; return end(let_go(pointer, 1)); }
int cudaHostAlloc(void **pointer, size_t size, unsigned flags) { BEGIN; return end(flags ? INVALID_VALUE : allocate(pointer, size, 0)); }
int cudaFreeHost(void *pointer) { BEGIN; return end(let_go(pointer, 0)); }
int cudaMemcpyAsync(void *target, const void *source, size_t size, int kind, Stream *s) {
    BEGIN;
    if (kind < 1 || kind > 3) return end(INVALID_VALUE);
    if (!place((uint64_t)target, size, kind != 2) || !place((uint64_t)source, size, kind != 1)) return end(INVALID_VALUE);
    Work w = {COPY, (uint64_t)target, (uint64_t)source, size, kind, 0, 0};
    return end(queue(s, w));
}
int cudaMemsetAsync(void *target, int value, size_t size, Stream *s) {
    BEGIN;
    if (!place((uint64_t)target, size, 1)) return end(INVALID_VALUE);
    Work w = {SET, (uint64_t)target, (uint64_t)value, size, 0, 0, 0};
    return end(queue(s, w));
}
int cudaStreamCreateWithFlags(Stream **s, unsigned flags) {
    BEGIN;
    *s = calloc(1, sizeof(Stream));
    (*s)->live = 1;
    return end(flags == 1 ? SUCCESS : INVALID_VALUE);
}
int cudaStreamDestroy(Stream *s) { BEGIN; s->live = 0; return end(SUCCESS); }
int cudaStreamSynchronize(Stream *s) {
    BEGIN;
    if (s->capturing) { s->invalid = 1; return end(UNSUPPORTED); }
    end(SUCCESS);
    return flush(s);
}
int cudaStreamBeginCapture(Stream *s, int mode) {
    BEGIN;
    if (s->capturing || mode != 1) return end(INVALID_VALUE);
    s->capturing = calloc(1, sizeof(List));
    s->invalid = 0;
    s->thread = pthread_self();
    capturing_here = s;
    return end(SUCCESS);
}
int cudaStreamEndCapture(Stream *s, List **graph) {
    int failed = begin(__func__);
    if (!s->capturing) return end(INVALID_VALUE);
    int code = failed ? failed : s->invalid ? INVALIDATED : SUCCESS;
    *graph = code ? 0 : s->capturing;
    s->capturing = 0;
    s->invalid = 0;
    capturing_here = 0;
    return end(code);
}
int cudaGraphInstantiateWithFlags(List **ready, List *graph, unsigned long long flags) {
    BEGIN;
    if (!graph || flags) return end(INVALID_VALUE);
    List *copy = calloc(1, sizeof(List));
    for (long i = 0; i < graph->count; i++) add(copy, graph->work[i]);
    *ready = copy;
    return end(SUCCESS);
}
int cudaGraphLaunch(List *graph, Stream *s) {
    BEGIN;
    int code = SUCCESS;
    for (long i = 0; i < graph->count && !code; i++) code = queue(s, graph->work[i]);
    return end(code);
}
int cudaGraphDestroy(List *graph) { BEGIN; if (graph) { free(graph->work); free(graph); } return end(SUCCESS); }
int cudaGraphExecDestroy(List *graph) { BEGIN; free(graph->work); free(graph); return end(SUCCESS); }
