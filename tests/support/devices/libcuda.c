/* A CUDA driver of one device in ordinary memory, for NVIDIA's own Python package to call.

   Only what the runtime calls is here. It shows which function a call reaches and what the
   package makes of statuses, handles and results; what a GPU does is not imitated. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS, INVALID_VALUE, OUT_OF_MEMORY, INVALID_CONTEXT = 201, ILLEGAL_STATE = 401,
       NOT_FOUND = 500, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED };
typedef unsigned long long address;

static char context, stream, graph, executable;
static size_t total = 1ull << 36, used;
static struct { address target, source; size_t size; } copies[8];
static int capturing, invalid, count;

int cuInit(unsigned flags) { return flags ? INVALID_VALUE : SUCCESS; }
int cuDriverGetVersion(int *version) { *version = 13000; return SUCCESS; }
int cuDeviceGetCount(int *devices) { *devices = 1; return SUCCESS; }
int cuDeviceGet(int *device, int index) { *device = index; return index ? INVALID_VALUE : SUCCESS; }
int cuDeviceGetName(char *name, int size, int device) { snprintf(name, size, "none"); return device; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = total; return device; }
int cuDeviceGetAttribute(int *value, int which, int device) { *value = which == 75 ? 9 : 0; return device; }

int cuDevicePrimaryCtxRetain(void **made, int device) { *made = &context; return device; }
int cuDevicePrimaryCtxRelease_v2(int device) { return device; }
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) { *flags = 0; *active = 1; return device; }
int cuCtxPushCurrent_v2(void *pushed) { return pushed == &context ? SUCCESS : INVALID_CONTEXT; }
int cuCtxPopCurrent_v2(void **popped) { *popped = &context; return SUCCESS; }

static int wait(void) {
    if (capturing) invalid = 1;
    return capturing ? CAPTURE_UNSUPPORTED : SUCCESS;
}
int cuCtxSynchronize(void) { return wait(); }
int cuStreamSynchronize(void *waited) { return waited == &stream ? wait() : INVALID_VALUE; }

int cuMemGetInfo_v2(size_t *left, size_t *all) { *left = total - used; *all = total; return SUCCESS; }
int cuMemAlloc_v2(address *made, size_t size) {
    if (size > total - used) return OUT_OF_MEMORY;
    size_t *block = calloc(1, sizeof *block + size);
    used += *block = size;
    *made = (address)(block + 1);
    return SUCCESS;
}
int cuMemFree_v2(address freed) {
    size_t *block = (size_t *)freed - 1;
    used -= *block;
    free(block);
    return SUCCESS;
}
int cuMemHostAlloc(void **made, size_t size, unsigned flags) { *made = calloc(1, size); return flags; }
int cuMemFreeHost(void *freed) { free(freed); return SUCCESS; }

int cuStreamCreate(void **made, unsigned flags) { *made = &stream; return flags == 1 ? SUCCESS : INVALID_VALUE; }
int cuStreamDestroy_v2(void *ended) { return ended == &stream ? SUCCESS : INVALID_VALUE; }
int cuEventCreate(void **made, unsigned flags) { *made = malloc(1); return flags; }
int cuEventDestroy_v2(void *event) { free(event); return SUCCESS; }
int cuEventRecord(void *event, void *on) { return event && on == &stream ? SUCCESS : INVALID_VALUE; }
int cuEventElapsedTime_v2(float *ms, void *begin, void *end) { *ms = 0.5f; return begin == end; }

static int copy(address target, address source, size_t size, void *on) {
    if (on != &stream) return INVALID_VALUE;
    if (!capturing) memmove((void *)target, (void *)source, size);
    else if (count < 8) copies[count].target = target, copies[count].source = source, copies[count++].size = size;
    return SUCCESS;
}
int cuMemcpyHtoDAsync_v2(address target, void *source, size_t size, void *on) { return copy(target, (address)source, size, on); }
int cuMemcpyDtoHAsync_v2(void *target, address source, size_t size, void *on) { return copy((address)target, source, size, on); }
int cuMemcpyDtoDAsync_v2(address target, address source, size_t size, void *on) { return copy(target, source, size, on); }

int cuStreamBeginCapture_v2(void *on, int mode) { /* 1: thread-local */
    if (on != &stream || mode != 1) return INVALID_VALUE;
    capturing = 1, invalid = count = 0;
    return SUCCESS;
}
int cuStreamEndCapture(void *on, void **made) {
    int began = capturing;
    capturing = 0;
    *made = began && !invalid ? &graph : NULL;
    return on != &stream || !began ? ILLEGAL_STATE : invalid ? CAPTURE_INVALIDATED : SUCCESS;
}
int cuGraphGetNodes(void *of, void **nodes, size_t *number) { *number = count; return of == &graph && !nodes ? SUCCESS : INVALID_VALUE; }
int cuGraphInstantiateWithFlags(void **made, void *of, address flags) { *made = &executable; return of == &graph && !flags ? SUCCESS : INVALID_VALUE; }
int cuGraphDestroy(void *ended) { return ended == &graph ? SUCCESS : INVALID_VALUE; }
int cuGraphLaunch(void *launched, void *on) {
    for (int i = 0; i < count; i++) memmove((void *)copies[i].target, (void *)copies[i].source, copies[i].size);
    return launched == &executable && on == &stream ? SUCCESS : INVALID_VALUE;
}
int cuGraphExecDestroy(void *ended) { return ended == &executable ? SUCCESS : INVALID_VALUE; }

int cuGetErrorName(int status, const char **name) { *name = "no name"; return SUCCESS; }
int cuGetErrorString(int status, const char **text) { *text = "no text"; return SUCCESS; }

/* The newest version of a function that is not newer than `version`, as CUDA 13 has it. */
int cuGetProcAddress_v2(const char *name, void **found, int version, address flags, int *status) {
    const char *endings[] = {"_v2", "WithFlags", ""};
    void *self = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
    char whole[99];
    *found = NULL;
    for (int i = 0; i < 3 && !*found; i++) {
        snprintf(whole, sizeof whole, "%s%s", name, endings[i]);
        *found = dlsym(self, whole);
    }
    if (status) *status = !*found;
    return *found ? SUCCESS : NOT_FOUND;
}
