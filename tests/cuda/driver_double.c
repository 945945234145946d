/* A CUDA driver in host memory, for tests on machines without a GPU. Built by double.py as libcuda.so.1.
 *
 * It keeps the driver's rules, so that code which breaks them fails here too:
 *   - Work on a stream is queued, and done only when somebody waits for it (or frees memory). A result read too early,
 *     or a source overwritten too early, is wrong here every time, not once a week.
 *   - Every thread has a stack of contexts; a call without a current one fails with 201.
 *   - Handles are never reused: a freed stream, event or graph is an invalid handle, a freed address an illegal one.
 *     Freed memory is unmapped for reading and writing, so that a stale array of pinned memory faults.
 *   - Captured work is not run, but recorded, and is run with the buffers' contents of the moment on every launch.
 *   - Device memory has a size; asking for more than is left fails with 2.
 *   - An illegal address, when the work is done, loses the device: all later calls fail with 700.
 *
 * Functions called double_* are for the tests. What is not here answers 801 (not supported).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

typedef int Result;
typedef unsigned long long Address;
typedef void (*HostFunction)(void *);

enum {
    OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_DEVICE = 101, INVALID_CONTEXT = 201,
    INVALID_HANDLE = 400, NOT_FOUND = 500, NOT_READY = 600, ILLEGAL_ADDRESS = 700, LAUNCH_FAILED = 719,
    NOT_SUPPORTED = 801, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901, CAPTURE_UNMATCHED = 903,
    CAPTURE_UNJOINED = 904, CAPTURED_EVENT = 907, UNKNOWN = 999
};

static const struct { int code; const char *name, *text; } ERRORS[] = {
    {OK, "CUDA_SUCCESS", "no error"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"},
    {CAPTURE_UNMATCHED, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "capture was not initiated in this stream"},
    {CAPTURE_UNJOINED, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED", "capturing stream has unjoined work"},
    {CAPTURED_EVENT, "CUDA_ERROR_CAPTURED_EVENT", "operation not permitted on an event last recorded in a capturing stream"},
    {UNKNOWN, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

/* ---- objects ---------------------------------------------------------------------------------------------------- */

enum Kind { DEVICE_MEMORY, HOST_MEMORY, STREAM, EVENT, GRAPH, EXECUTABLE, KINDS };

typedef struct Work Work;
struct Work { /* one thing on a stream, in a queue or a graph */
    enum { COPY, FILL, CALL, MARK, WAIT } what;
    uint64_t serial;             /* its place on its stream */
    void *to; const void *from; size_t bytes; int byte;
    void *staged;                /* the source of a copy from pageable memory, taken when it was enqueued */
    HostFunction function; void *argument;
    struct Object *event;        /* MARK: whose time to set */
    struct Object *stream; uint64_t until; /* WAIT: for that place on that stream */
    Work *next;
};
typedef struct { Work *first, *last; } Queue;

typedef struct Object Object;
struct Object {
    enum Kind kind;
    int alive;
    Object *next;
    char *start; size_t bytes; int mapped;                       /* memory */
    Queue queue; uint64_t issued, done;                          /* stream; a graph's work */
    Object *capture; int origin, joined;                         /* stream: the graph it is being captured into */
    int invalid;                                                 /* graph: its capture was spoilt */
    int timing; Object *stream, *captured; uint64_t place; double ms; /* event: where it was recorded last, and when */
};

#define DEVICES 2
typedef struct { int device, references, own; } Context;
static Context primary[DEVICES] = {{0, 0, 0}, {1, 0, 0}};

static const size_t TOTAL = (size_t)1 << 30;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* held while objects and queues change, never while work runs */
static Object *objects;
static long live[KINDS];
static size_t used[2];
static int lost;
static char failing[64];
static int failing_code;
static __thread Context *stack[32];
static __thread int depth;

static Object *make(enum Kind kind) {
    Object *object = calloc(1, sizeof *object);
    object->kind = kind;
    object->alive = 1;
    object->next = objects;
    objects = object;
    live[kind]++;
    return object;
}

static Object *find(void *handle, enum Kind kind) {
    for (Object *object = objects; object; object = object->next)
        if (object == handle) return object->alive && object->kind == kind ? object : NULL;
    return NULL;
}

static void drop(Object *object) {
    object->alive = 0; /* and never freed: its address must not come back as another's handle */
    live[object->kind]--;
}

/* The live memory that holds all of [start, start + bytes). Only mapped host memory has an address on the device. */
static Object *memory_at(const void *start, size_t bytes, int on_device) {
    for (Object *object = objects; object; object = object->next) {
        if (!object->alive || object->kind > HOST_MEMORY) continue;
        if (on_device ? object->kind == HOST_MEMORY && !object->mapped : object->kind == DEVICE_MEMORY) continue;
        if ((char *)start >= object->start && (char *)start + bytes <= object->start + object->bytes) return object;
    }
    return NULL;
}

/* Every call starts here: `needs` a current context; a test's wish to see it fail comes first. */
static Result begin(const char *call, int needs) {
    size_t named = strlen(failing);
    if (failing_code && !strncmp(call, failing, named) && (!call[named] || call[named] == '_')) {
        int code = failing_code;
        failing_code = 0;
        return code;
    }
    if (!needs) return OK;
    if (!depth || !(stack[depth - 1]->own || stack[depth - 1]->references)) return INVALID_CONTEXT;
    return lost;
}
#define CALL(needs) do { Result status = begin(__func__, needs); if (status) return status; } while (0)

/* ---- work ------------------------------------------------------------------------------------------------------- */

static void append(Queue *queue, Work *work) {
    work->next = NULL;
    if (queue->last) queue->last->next = work; else queue->first = work;
    queue->last = work;
}

static void empty(Queue *queue) {
    for (Work *work = queue->first, *next; work; work = next) {
        next = work->next;
        free(work->staged);
        free(work);
    }
    queue->first = queue->last = NULL;
}

static double now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1e3 + now.tv_nsec * 1e-6;
}

static int accessible(const void *start, size_t bytes) {
    return memory_at(start, bytes, 0) || memory_at(start, bytes, 1);
}

/* Do the stream's work up to a place on it. */
static void run_until(Object *stream, uint64_t until) {
    while (!lost && stream->done < until) {
        pthread_mutex_lock(&lock);
        Work *work = stream->queue.first;
        if (work) {
            stream->queue.first = work->next;
            if (!work->next) stream->queue.last = NULL;
        }
        if (work && work->what <= FILL
            && (!accessible(work->to, work->bytes) || (work->what == COPY && !work->staged && !accessible(work->from, work->bytes)))) {
            lost = ILLEGAL_ADDRESS;
        }
        pthread_mutex_unlock(&lock);
        if (!work) return; /* another thread is at it */
        if (!lost) switch (work->what) {
            case COPY: memcpy(work->to, work->staged ? work->staged : work->from, work->bytes); break;
            case FILL: memset(work->to, work->byte, work->bytes); break;
            case CALL: work->function(work->argument); break;
            case MARK: work->event->ms = now_ms(); break;
            case WAIT: run_until(work->stream, work->until); break;
        }
        stream->done = work->serial;
        free(work->staged);
        free(work);
    }
}

static Result run_all(void) {
    for (Object *object = objects; object; object = object->next)
        if (object->alive && object->kind == STREAM) run_until(object, object->issued);
    return lost;
}

static Result capturing(void) {
    for (Object *object = objects; object; object = object->next)
        if (object->alive && object->kind == STREAM && object->capture) {
            object->capture->invalid = 1;
            return CAPTURE_UNSUPPORTED;
        }
    return OK;
}
#define NOT_WHILE_CAPTURING do { if (capturing()) return CAPTURE_UNSUPPORTED; } while (0)

static Work *new_work(int what) {
    Work *work = calloc(1, sizeof *work);
    work->what = what;
    return work;
}

static void enqueue(Object *stream, Work *work) {
    pthread_mutex_lock(&lock);
    if (stream->capture) {
        stream->joined = stream->origin;
        append(&stream->capture->queue, work);
    } else {
        work->serial = ++stream->issued;
        append(&stream->queue, work);
    }
    pthread_mutex_unlock(&lock);
}

/* ---- start, devices, contexts ----------------------------------------------------------------------------------- */

Result cuInit(unsigned flags) { CALL(0); return flags ? INVALID_VALUE : OK; }
Result cuDriverGetVersion(int *version) { CALL(0); *version = 13000; return OK; }
Result cuDeviceGetCount(int *count) { CALL(0); *count = DEVICES; return OK; }
Result cuDeviceGet(int *device, int ordinal) {
    CALL(0);
    if (ordinal < 0 || ordinal >= DEVICES) return INVALID_DEVICE;
    *device = ordinal;
    return OK;
}
Result cuDeviceGetName(char *name, int bytes, int device) {
    CALL(0);
    snprintf(name, bytes, "Driver double %d", device);
    return OK;
}
Result cuDeviceTotalMem_v2(size_t *bytes, int device) { CALL(0); *bytes = TOTAL; return OK; }
Result cuDeviceGetAttribute(int *value, int attribute, int device) {
    CALL(0);
    switch (attribute) {
        case 18: *value = device == 0; break;      /* integrated: device 0 is like a Jetson, 1 like a card */
        case 19: *value = 1; break;                /* can map host memory */
        case 75: *value = 8; break;                /* compute capability */
        case 76: *value = device == 0 ? 7 : 6; break;
        default: *value = 0;
    }
    return OK;
}
Result cuDeviceComputeCapability(int *major, int *minor, int device) {
    cuDeviceGetAttribute(major, 75, device);
    return cuDeviceGetAttribute(minor, 76, device);
}
Result cuDevicePrimaryCtxRetain(Context **context, int device) {
    CALL(0);
    if (lost) return lost;
    primary[device].references++;
    *context = &primary[device];
    return OK;
}
Result cuDevicePrimaryCtxRelease_v2(int device) {
    CALL(0);
    if (!primary[device].references) return INVALID_CONTEXT;
    primary[device].references--;
    return lost;
}
Result cuCtxCreate_v2(Context **context, unsigned flags, int device) {
    CALL(0);
    Context *own = calloc(1, sizeof *own);
    *own = (Context){device, 0, 1};
    *context = stack[depth++] = own;
    return OK;
}
Result cuCtxCreate_v4(Context **context, void *parameters, unsigned flags, int device) {
    return cuCtxCreate_v2(context, flags, device);
}
Result cuCtxDestroy_v2(Context *context) {
    CALL(0);
    context->own = 0;
    if (depth && stack[depth - 1] == context) depth--;
    return OK;
}
Result cuCtxDetach(Context *context) { return context->own ? cuCtxDestroy_v2(context) : INVALID_CONTEXT; }
Result cuCtxPushCurrent_v2(Context *context) {
    CALL(0);
    if (depth == sizeof stack / sizeof *stack) return INVALID_VALUE;
    if (!context->own && !context->references) return INVALID_CONTEXT;
    stack[depth++] = context;
    return OK;
}
Result cuCtxPopCurrent_v2(Context **context) {
    CALL(0);
    if (!depth) return INVALID_CONTEXT;
    Context *top = stack[--depth];
    if (context) *context = top;
    return OK;
}
Result cuCtxGetCurrent(Context **context) { CALL(0); *context = depth ? stack[depth - 1] : NULL; return OK; }
Result cuCtxSetCurrent(Context *context) {
    CALL(0);
    if (depth) depth--;
    if (context) stack[depth++] = context;
    return OK;
}
Result cuCtxGetDevice(int *device) { CALL(1); *device = stack[depth - 1]->device; return OK; }
Result cuCtxSynchronize(void) { CALL(1); NOT_WHILE_CAPTURING; return run_all(); }

/* ---- memory ----------------------------------------------------------------------------------------------------- */

static Result allocate(enum Kind kind, size_t bytes, Object **out) {
    if (!bytes) return INVALID_VALUE;
    if (bytes > TOTAL - used[kind]) return OUT_OF_MEMORY;
    void *start = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) return OUT_OF_MEMORY;
    /* Nobody may count on zeros; filling very large memory would only make the machine hold it. */
    memset(start, 0xCD, bytes < (16u << 20) ? bytes : (16u << 20));
    pthread_mutex_lock(&lock);
    *out = make(kind);
    (*out)->start = start;
    (*out)->bytes = bytes;
    used[kind] += bytes;
    pthread_mutex_unlock(&lock);
    return OK;
}

static Result release(enum Kind kind, void *start) {
    Result status = run_all(); /* as the driver: freeing waits for the work that may use it */
    pthread_mutex_lock(&lock);
    Object *object = objects;
    while (object && !(object->alive && object->kind == kind && object->start == start)) object = object->next;
    if (object) {
        drop(object);
        used[kind] -= object->bytes;
        madvise(start, object->bytes, MADV_DONTNEED);
        mprotect(start, object->bytes, PROT_NONE); /* the address stays taken */
    }
    pthread_mutex_unlock(&lock);
    return object ? status : INVALID_VALUE;
}

Result cuMemGetInfo_v2(size_t *unused, size_t *total) {
    CALL(1);
    *unused = TOTAL - used[DEVICE_MEMORY];
    *total = TOTAL;
    return OK;
}
Result cuMemAlloc_v2(Address *address, size_t bytes) {
    CALL(1);
    NOT_WHILE_CAPTURING;
    Object *object;
    Result status = allocate(DEVICE_MEMORY, bytes, &object);
    if (!status) *address = (Address)(uintptr_t)object->start;
    return status;
}
Result cuMemFree_v2(Address address) {
    CALL(1);
    NOT_WHILE_CAPTURING;
    return release(DEVICE_MEMORY, (void *)(uintptr_t)address);
}
Result cuMemHostAlloc(void **start, size_t bytes, unsigned flags) {
    CALL(1);
    NOT_WHILE_CAPTURING;
    Object *object;
    Result status = allocate(HOST_MEMORY, bytes, &object);
    if (status) return status;
    object->mapped = (flags & 2) != 0;
    *start = object->start;
    return OK;
}
Result cuMemFreeHost(void *start) {
    CALL(1);
    NOT_WHILE_CAPTURING;
    return release(HOST_MEMORY, start);
}
Result cuMemHostGetDevicePointer_v2(Address *address, void *start, unsigned flags) {
    CALL(1);
    Object *object = memory_at(start, 1, 0);
    if (!object || !object->mapped) return INVALID_VALUE;
    *address = (Address)(uintptr_t)start;
    return OK;
}

static Result copy(void *to, const void *from, size_t bytes, int to_device, Object *stream) {
    const void *device = to_device ? to : from, *host = to_device ? from : to;
    int pinned = memory_at(host, bytes, 0) != NULL;
    if (!memory_at(device, bytes, 1)) return INVALID_VALUE;
    if (stream->capture && !pinned) {
        stream->capture->invalid = 1;
        return CAPTURE_UNSUPPORTED;
    }
    if (!pinned && !to_device) { /* the driver returns when such a copy is done */
        run_until(stream, stream->issued);
        if (!lost) memcpy(to, from, bytes);
        return lost;
    }
    Work *work = new_work(COPY);
    work->to = to;
    work->from = from;
    work->bytes = bytes;
    if (!pinned) {
        work->staged = malloc(bytes);
        memcpy(work->staged, from, bytes);
    }
    enqueue(stream, work);
    return OK;
}
Result cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t bytes, void *handle) {
    CALL(1);
    Object *stream = find(handle, STREAM);
    return stream ? copy((void *)(uintptr_t)to, from, bytes, 1, stream) : INVALID_HANDLE;
}
Result cuMemcpyDtoHAsync_v2(void *to, Address from, size_t bytes, void *handle) {
    CALL(1);
    Object *stream = find(handle, STREAM);
    return stream ? copy(to, (void *)(uintptr_t)from, bytes, 0, stream) : INVALID_HANDLE;
}
Result cuMemsetD8Async(Address to, unsigned char byte, size_t bytes, void *handle) {
    CALL(1);
    Object *stream = find(handle, STREAM);
    if (!stream) return INVALID_HANDLE;
    if (!memory_at((void *)(uintptr_t)to, bytes, 1)) return INVALID_VALUE;
    Work *work = new_work(FILL);
    work->to = (void *)(uintptr_t)to;
    work->byte = byte;
    work->bytes = bytes;
    enqueue(stream, work);
    return OK;
}

/* ---- streams and events ----------------------------------------------------------------------------------------- */

Result cuStreamCreate(void **handle, unsigned flags) {
    CALL(1);
    pthread_mutex_lock(&lock);
    *handle = make(STREAM);
    pthread_mutex_unlock(&lock);
    return OK;
}
Result cuStreamCreateWithPriority(void **handle, unsigned flags, int priority) { return cuStreamCreate(handle, flags); }
Result cuStreamDestroy_v2(void *handle) {
    CALL(1);
    Object *stream = find(handle, STREAM);
    if (!stream) return INVALID_HANDLE;
    run_until(stream, stream->issued);
    drop(stream);
    return lost;
}
Result cuStreamSynchronize(void *handle) {
    CALL(1);
    Object *stream = find(handle, STREAM);
    if (!stream) return INVALID_HANDLE;
    if (stream->capture) {
        stream->capture->invalid = 1;
        return CAPTURE_UNSUPPORTED;
    }
    run_until(stream, stream->issued);
    return lost;
}
Result cuStreamQuery(void *handle) {
    CALL(1);
    Object *stream = find(handle, STREAM);
    if (!stream) return INVALID_HANDLE;
    return stream->done == stream->issued ? OK : NOT_READY;
}
/* How a test's own kernels get onto a stream, or into a graph. */
Result cuLaunchHostFunc(void *handle, HostFunction function, void *argument) {
    CALL(1);
    Object *stream = find(handle, STREAM);
    if (!stream) return INVALID_HANDLE;
    Work *work = new_work(CALL);
    work->function = function;
    work->argument = argument;
    enqueue(stream, work);
    return OK;
}

Result cuEventCreate(void **handle, unsigned flags) {
    CALL(1);
    pthread_mutex_lock(&lock);
    Object *event = make(EVENT);
    event->timing = !(flags & 2);
    *handle = event;
    pthread_mutex_unlock(&lock);
    return OK;
}
Result cuEventDestroy_v2(void *handle) {
    CALL(1);
    Object *event = find(handle, EVENT);
    if (!event) return INVALID_HANDLE;
    drop(event);
    return OK;
}
Result cuEventRecord(void *handle, void *stream_handle) {
    CALL(1);
    Object *event = find(handle, EVENT), *stream = find(stream_handle, STREAM);
    if (!event || !stream) return INVALID_HANDLE;
    event->stream = stream;
    event->captured = stream->capture;
    if (stream->capture) return OK; /* in a graph it orders, it has no time */
    Work *work = new_work(MARK);
    work->event = event;
    enqueue(stream, work);
    event->place = stream->issued;
    return OK;
}
Result cuStreamWaitEvent(void *handle, void *event_handle, unsigned flags) {
    CALL(1);
    Object *stream = find(handle, STREAM), *event = find(event_handle, EVENT);
    if (!stream || !event) return INVALID_HANDLE;
    if (!event->stream) return OK;
    if (event->captured) {
        /* Work in a graph is kept in the order of issue, which honours every wait; what is left is who takes part. */
        if (!stream->capture) {
            stream->capture = event->captured;
            stream->joined = 0;
        } else if (stream->origin) {
            event->stream->joined = 1;
        }
        return OK;
    }
    if (stream->capture) return CAPTURE_UNSUPPORTED;
    Work *work = new_work(WAIT);
    work->stream = event->stream;
    work->until = event->place;
    enqueue(stream, work);
    return OK;
}
Result cuEventSynchronize(void *handle) {
    CALL(1);
    Object *event = find(handle, EVENT);
    if (!event) return INVALID_HANDLE;
    if (event->captured) return CAPTURED_EVENT;
    if (event->stream) run_until(event->stream, event->place);
    return lost;
}
Result cuEventQuery(void *handle) {
    CALL(1);
    Object *event = find(handle, EVENT);
    if (!event) return INVALID_HANDLE;
    return !event->stream || event->stream->done >= event->place ? OK : NOT_READY;
}
Result cuEventElapsedTime(float *ms, void *start_handle, void *stop_handle) {
    CALL(1);
    Object *start = find(start_handle, EVENT), *stop = find(stop_handle, EVENT);
    if (!start || !stop || !start->timing || !stop->timing || !start->stream || !stop->stream) return INVALID_HANDLE;
    if (start->stream->done < start->place || stop->stream->done < stop->place) return NOT_READY;
    *ms = (float)(stop->ms - start->ms);
    return OK;
}
Result cuEventElapsedTime_v2(float *ms, void *start, void *stop) { return cuEventElapsedTime(ms, start, stop); }

/* ---- graphs ----------------------------------------------------------------------------------------------------- */

Result cuStreamBeginCapture_v2(void *handle, int mode) {
    CALL(1);
    Object *stream = find(handle, STREAM);
    if (!stream) return INVALID_HANDLE;
    if (stream->capture) return CAPTURE_UNSUPPORTED;
    pthread_mutex_lock(&lock);
    stream->capture = make(GRAPH);
    pthread_mutex_unlock(&lock);
    stream->origin = stream->joined = 1;
    return OK;
}
Result cuStreamIsCapturing(void *handle, int *status) {
    CALL(1);
    Object *stream = find(handle, STREAM);
    if (!stream) return INVALID_HANDLE;
    *status = !stream->capture ? 0 : stream->capture->invalid ? 2 : 1;
    return OK;
}
Result cuStreamEndCapture(void *handle, void **graph_handle) {
    CALL(1);
    Object *stream = find(handle, STREAM);
    *graph_handle = NULL;
    if (!stream) return INVALID_HANDLE;
    if (!stream->capture || !stream->origin) return CAPTURE_UNMATCHED;
    Object *graph = stream->capture;
    Result status = graph->invalid ? CAPTURE_INVALIDATED : OK;
    for (Object *object = objects; object; object = object->next)
        if (object->kind == STREAM && object->capture == graph) {
            if (!object->joined && !status) status = CAPTURE_UNJOINED;
            object->capture = NULL;
            object->origin = 0;
        }
    if (status) {
        empty(&graph->queue);
        drop(graph);
    } else {
        *graph_handle = graph;
    }
    return status;
}

static Work *duplicate(const Work *work) {
    Work *twin = new_work(work->what);
    *twin = *work;
    return twin;
}
Result cuGraphInstantiateWithFlags(void **handle, void *graph_handle, unsigned long long flags) {
    CALL(1);
    Object *graph = find(graph_handle, GRAPH);
    if (!graph) return INVALID_HANDLE;
    pthread_mutex_lock(&lock);
    Object *executable = make(EXECUTABLE);
    for (Work *work = graph->queue.first; work; work = work->next) append(&executable->queue, duplicate(work));
    pthread_mutex_unlock(&lock);
    *handle = executable;
    return OK;
}
Result cuGraphLaunch(void *handle, void *stream_handle) {
    CALL(1);
    Object *executable = find(handle, EXECUTABLE), *stream = find(stream_handle, STREAM);
    if (!executable || !stream) return INVALID_HANDLE;
    for (Work *work = executable->queue.first; work; work = work->next) enqueue(stream, duplicate(work));
    return OK;
}
Result cuGraphDestroy(void *handle) {
    CALL(1);
    Object *graph = find(handle, GRAPH);
    if (!graph) return INVALID_HANDLE;
    empty(&graph->queue);
    drop(graph);
    return OK;
}
Result cuGraphExecDestroy(void *handle) {
    CALL(1);
    Object *executable = find(handle, EXECUTABLE);
    if (!executable) return INVALID_HANDLE;
    empty(&executable->queue);
    drop(executable);
    return OK;
}

/* ---- errors and look-up ----------------------------------------------------------------------------------------- */

static Result describe(int code, const char **out, int want_name) {
    for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
        if (ERRORS[i].code == code) {
            *out = want_name ? ERRORS[i].name : ERRORS[i].text;
            return OK;
        }
    *out = NULL;
    return INVALID_VALUE;
}
Result cuGetErrorName(int code, const char **name) { return describe(code, name, 1); }
Result cuGetErrorString(int code, const char **text) { return describe(code, text, 0); }

static Result not_supported(void) { return NOT_SUPPORTED; }

Result cuGetProcAddress_v2(const char *name, void **function, int version, unsigned long long flags, int *status) {
    static const char *const SUFFIXES[] = {"_v4", "_v3", "_v2", "WithFlags", ""};
    void *self = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    *function = NULL;
    for (size_t i = 0; i < sizeof SUFFIXES / sizeof *SUFFIXES && !*function; i++) {
        char symbol[128];
        snprintf(symbol, sizeof symbol, "%s%s", name, SUFFIXES[i]);
        *function = dlsym(self ? self : RTLD_DEFAULT, symbol);
    }
    if (!*function) *function = (void *)not_supported;
    if (status) *status = 0;
    return OK;
}
Result cuGetProcAddress(const char *name, void **function, int version, unsigned long long flags) {
    return cuGetProcAddress_v2(name, function, version, flags, NULL);
}

/* ---- for the tests ---------------------------------------------------------------------------------------------- */

/* Live objects by kind, then the references to primary contexts: KINDS + 1 numbers. */
void double_counts(long *counts) {
    memcpy(counts, live, sizeof live);
    counts[KINDS] = 0;
    for (int i = 0; i < DEVICES; i++) counts[KINDS] += primary[i].references;
}
/* The height of the calling thread's stack of contexts. */
int double_depth(void) { return depth; }
/* Let the next call of that function (without its version, "cuMemAlloc") fail. */
void double_fail(const char *function, int code) {
    snprintf(failing, sizeof failing, "%s", function);
    failing_code = code;
}
/* Lose the device: every call that needs it fails with `code` from now on. */
void double_lose(int code) { lost = code; }
/* Give the device back as it is after a restart: with nothing on it. */
void double_forget(void) {
    lost = 0;
    used[DEVICE_MEMORY] = used[HOST_MEMORY] = 0;
    for (Object *object = objects; object; object = object->next)
        if (object->alive) drop(object);
}
