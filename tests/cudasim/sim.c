/* cudasim: a libcuda.so.1 that keeps the CUDA driver API's *host-side contract* over ordinary
 * memory. Kernels are NOT executed: outputs keep a poison pattern (0xFF.. = NaN). It checks and
 * logs what host code does; it never produces a numeric result.
 *
 * CUSIM_LOG=1|path   log every call            CUSIM_COUNTS=path  per-entry call counts at exit
 * CUSIM_CC=86        compute capability        CUSIM_MEM_MB=8192  device memory size
 * CUSIM_DEFER=1      run stream work as late as the API allows (finds missing waits)
 * CUSIM_FAIL=cuMemAlloc_v2:3=2[,..]   the 3rd call of that entry returns error 2; `3+` it and every later one
 *                    (an error that loses the device, like 719, is returned by everything from then on)
 * CUSIM_REUSE=1      an allocation gets the address of the last one of its size that was freed, as a real driver does
 * CUSIM_STRICT=1     abort() on a host-code fault instead of returning an error
 * CUSIM_REPORT=path  leak/fault report at exit (default: stderr when there is something to say) */
#define _GNU_SOURCE
#include <cuda.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <elf.h>

#define R CUDA_SUCCESS
typedef unsigned char u8; typedef uint64_t u64; typedef uint32_t u32;
static pthread_mutex_t mu; static pthread_cond_t idle = PTHREAD_COND_INITIALIZER; static pthread_once_t once = PTHREAD_ONCE_INIT;
static FILE *logf_; static int cc = 86, defer, reuse, strict, inited, nfault, ptrcheck = 1;
static const char *counts_path, *report_path;
static u64 mem_total = 8192ull << 20, mem_used, mem_peak;

/* ------------------------------------------------------------------ log, counts, injected faults */
typedef struct { const char *n; long c; } Cnt; static Cnt cnt[1024]; static int ncnt;
typedef struct { char n[64]; long k; int more, e; } Inj; static Inj inj[32]; static int ninj;
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec * 1e-9; }
static double t0;
static void vlog(const char *f, va_list a) { if (!logf_) return; vfprintf(logf_, f, a); }
static void lg(const char *f, ...) { va_list a; va_start(a, f); vlog(f, a); va_end(a); }
static void fault(const char *f, ...) {
  char b[512]; va_list a; va_start(a, f); vsnprintf(b, sizeof b, f, a); va_end(a);
  nfault++; fprintf(stderr, "cudasim FAULT: %s\n", b); lg("!! FAULT %s\n", b);
  if (strict) abort();
}
static void at_exit(void);
static void boot(void) {
  pthread_mutexattr_t at; pthread_mutexattr_init(&at); pthread_mutexattr_settype(&at, PTHREAD_MUTEX_RECURSIVE);
  pthread_mutex_init(&mu, &at); t0 = now();
  const char *s;
  if ((s = getenv("CUSIM_LOG")) && *s && strcmp(s, "0")) { logf_ = !strcmp(s, "1") ? stderr : fopen(s, "a"); if (logf_) setvbuf(logf_, 0, _IOLBF, 0); }
  if ((s = getenv("CUSIM_CC"))) cc = atoi(s);
  if ((s = getenv("CUSIM_DEFER"))) defer = atoi(s);
  if ((s = getenv("CUSIM_REUSE"))) reuse = atoi(s);
  if ((s = getenv("CUSIM_STRICT"))) strict = atoi(s);
  if ((s = getenv("CUSIM_PTRCHECK"))) ptrcheck = atoi(s);
  if ((s = getenv("CUSIM_MEM_MB"))) mem_total = strtoull(s, 0, 0) << 20;
  counts_path = getenv("CUSIM_COUNTS"); report_path = getenv("CUSIM_REPORT");
  if ((s = getenv("CUSIM_FAIL"))) {
    char *d = strdup(s), *p, *sv = 0;
    for (p = strtok_r(d, ",", &sv); p && ninj < 32; p = strtok_r(0, ",", &sv)) {
      Inj *i = &inj[ninj++]; char *at = strchr(p, ':'), *eq = strchr(p, '=');
      snprintf(i->n, sizeof i->n, "%.*s", (int)strcspn(p, ":="), p);
      i->k = at ? atol(at + 1) : 1; i->e = eq ? atoi(eq + 1) : 999; i->more = at && eq && eq[-1] == '+';
    }
    free(d);
  }
  atexit(at_exit);
}
static int vis_count(const char *n) {
  int i; for (i = 0; i < ncnt; i++) if (cnt[i].n == n || !strcmp(cnt[i].n, n)) break;
  if (i == ncnt && ncnt < 1024) cnt[ncnt++] = (Cnt){n, 0};
  return i < ncnt ? (int)++cnt[i].c : 0;
}
/* Errors after which a context is of no use: every call returns them. What is given back is still given back. */
static int lost;
static int loses(int e) { return e == 214 || (e >= 700 && e <= 720 && e != 704 && e != 705 && e != 708 && e != 711 && e != 712 && e != 713); }
static int despite_loss(const char *n) {
  static const char *const names[] = {"cuMemFree", "cuMemFreeHost", "cuStreamDestroy", "cuEventDestroy", "cuGraphExecDestroy", "cuDevicePrimaryCtxRelease", "cuCtxPushCurrent", "cuCtxPopCurrent", "cuCtxSetCurrent", "cuCtxGetCurrent", "cuGetErrorName", "cuGetErrorString", "cuGetProcAddress"};
  for (unsigned i = 0; i < sizeof names / sizeof *names; i++) { size_t l = strlen(names[i]); if (!strncmp(n, names[i], l) && (!n[l] || !strncmp(n + l, "_v", 2))) return 1 + (i > 5); }
  return 0;
}
static int enter(const char *n, const char *f, ...) {
  pthread_once(&once, boot); pthread_mutex_lock(&mu);
  long k = vis_count(n);
  if (logf_) { fprintf(logf_, "[%8.3f] %s(", now() - t0, n); va_list a; va_start(a, f); vlog(f, a); va_end(a); fputs(")\n", logf_); }
  for (int i = 0; i < ninj; i++) if ((inj[i].k == k || (inj[i].more && k > inj[i].k)) && !strcmp(inj[i].n, n)) { lg("   -> injected error %d\n", inj[i].e); if (loses(inj[i].e)) lost = inj[i].e; return inj[i].e; }
  if (lost && !despite_loss(n)) { lg("   -> %d, the device is lost\n", lost); return lost; }
  return 0;
}
static CUresult leave(const char *n, CUresult r) { if (!r && lost && despite_loss(n) == 1) r = lost; if (r && r != CUDA_ERROR_NOT_READY) lg("   -> %s = %d\n", n, r); pthread_mutex_unlock(&mu); return r; }
#define ENTER(...) { int e_ = enter(__func__, "" __VA_ARGS__); if (e_) return leave(__func__, (CUresult)e_); }
#define RET(x) return leave(__func__, (CUresult)(x))
int sim_stub(const char *n) { enter(n, "STUB"); return leave(n, CUDA_ERROR_NOT_SUPPORTED); }

/* ------------------------------------------------------------------ objects */
enum { M_CTX = 0x43545831, M_STREAM = 0x53545231, M_EVENT = 0x45565431, M_POOL = 0x504f4f31, M_MOD = 0x4d4f4431, M_FUNC = 0x46554e31, M_LIB = 0x4c494231, M_GRAPH = 0x47524831, M_EXEC = 0x45584531, M_DEAD = 0xdeadbeef };
typedef struct Op Op; typedef struct CUstream_st St; typedef struct CUevent_st Ev; typedef struct CUctx_st Cx; typedef struct Mod Mod; typedef struct CUgraph_st Gr;
struct Op { int kind; u64 seq; CUdeviceptr d; void *dst; const void *src; size_t n; u32 v; int vs; u8 *snap; Ev *ev; St *other; u64 oseq; CUhostFn fn; void *ud; void *mod; CUdeviceptr *ptrs; int np; Op *next; };
enum { O_COPY, O_SET, O_REC, O_WAIT, O_HOST, O_KERN, O_FREE, O_CALLBACK };
struct CUstream_st { u32 magic; Cx *ctx; int flags, prio, builtin; u64 seq, done; Op *h, *t; St *next; int busy; pthread_t runner; u64 id; Gr *cap; };
struct CUgraph_st { u32 magic; Op *ops; int n; Gr *next; };   /* a graph and, with M_EXEC, one that can be launched: ops in a row */
struct CUevent_st { u32 magic; Cx *ctx; int flags, recorded; St *st; u64 seq; double t; Ev *next; };
struct CUctx_st { u32 magic; int flags, primary, refs; u64 id; size_t limit[16]; Mod *mods; };
struct CUmemPoolHandle_st { u32 magic; u64 thr; };
typedef struct CUmemPoolHandle_st Pool;
typedef struct CUfunc_st { u32 magic; Mod *m; char name[256]; int shmax, carve, pbytes; struct CUfunc_st *next; } Fn;
struct Mod { u32 magic; size_t size; int kind; Fn *fns; struct Gl { char name[256]; CUdeviceptr p; size_t n; struct Gl *next; } *gl; Mod *next; char **ks; int nk, arch; int *kp; u8 *img; size_t imgn; };
static u64 ids = 1; static Gr *graphs; static __thread int capturing; static Cx *primary; static St *streams; static Ev *events; static Mod *mods; static Pool defpool = {M_POOL, 0};
static St st_null, st_ptds;
static __thread Cx *stack[32]; static __thread int sp;
static Cx *cur(void) { return sp ? stack[sp - 1] : 0; }
#define CTX() do { if (!inited) RET(CUDA_ERROR_NOT_INITIALIZED); if (!cur()) RET(CUDA_ERROR_INVALID_CONTEXT); if (cur()->magic != M_CTX) RET(CUDA_ERROR_CONTEXT_IS_DESTROYED); } while (0)
#define NOT_CAPTURING(what) do { if (capturing) { fault("%s while this thread captures a stream", what); RET(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED); } } while (0)
#define NN(p) do { if (!(p)) RET(CUDA_ERROR_INVALID_VALUE); } while (0)

/* ------------------------------------------------------------------ memory */
typedef struct { u64 p, n; int live, host, async, internal; void *pool; } Al;
static Al *al; static int nal, cal; static u64 base, shadow, bump, vaspan = 1ull << 40; static int mfd = -1;
typedef struct { u64 p, n; int live, reg; } Hm; static Hm hm[1 << 16]; static int nhm;
static int is_dev(u64 p) { return base && p >= base && p < base + vaspan; }
static u8 *H(u64 p) { return (u8 *)(p - base + shadow); }
static int arena(void) {
  if (base) return 0;
  mfd = memfd_create("cudasim", MFD_CLOEXEC); if (mfd < 0) return -1;
  while (ftruncate(mfd, vaspan) && vaspan > (1ull << 32)) vaspan >>= 1;
  for (;;) {
    void *a = mmap(0, vaspan, PROT_NONE, MAP_SHARED | MAP_NORESERVE, mfd, 0), *b = a == MAP_FAILED ? a : mmap(0, vaspan, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, mfd, 0);
    if (b != MAP_FAILED) { base = (u64)a; shadow = (u64)b; bump = 1 << 21; return 0; }
    if (a != MAP_FAILED) munmap(a, vaspan);
    if (vaspan <= (1ull << 32)) return -1;
    vaspan >>= 1;
  }
}
static Al *find(u64 p) { int lo = 0, hi = nal; while (lo < hi) { int m = (lo + hi) / 2; if (al[m].p <= p) lo = m + 1; else hi = m; } return lo ? &al[lo - 1] : 0; }
static CUresult d_alloc(CUdeviceptr *out, size_t n, int async, void *pool) {
  if (!out || !n) return CUDA_ERROR_INVALID_VALUE;
  if (arena()) return CUDA_ERROR_OUT_OF_MEMORY;
  u64 r = (n + 511) & ~511ull;
  if (r < n || mem_used + r > mem_total) return CUDA_ERROR_OUT_OF_MEMORY;
  if (reuse) for (int i = nal; i--;) if (!al[i].live && ((al[i].n + 511) & ~511ull) == r) {
    al[i].live = 1; al[i].n = n; al[i].async = async; al[i].pool = pool; mem_used += r; if (mem_used > mem_peak) mem_peak = mem_used;
    memset(H(al[i].p), 0xff, n < (256u << 20) ? n : 1 << 20); *out = al[i].p; return R;
  }
  if (bump + r + (1 << 16) > vaspan) return CUDA_ERROR_OUT_OF_MEMORY;
  if (nal == cal) al = realloc(al, (cal = cal ? cal * 2 : 256) * sizeof *al);
  u64 p = base + bump; bump += (r + (1 << 16) + 0xffff) & ~0xffffull;     /* VA is never reused: stale pointers stay detectable */
  al[nal++] = (Al){p, n, 1, 0, async, 0, pool}; mem_used += r; if (mem_used > mem_peak) mem_peak = mem_used;
  if (n <= (256u << 20)) memset(H(p), 0xff, n); else { memset(H(p), 0xff, 1 << 20); memset(H(p) + n - (1 << 20), 0xff, 1 << 20); }
  *out = p; return R;
}
static CUresult d_free(u64 p) {
  Al *a = find(p);
  if (!a || a->p != p) { fault("free of %#lx, which is no allocation's start", (long)p); return CUDA_ERROR_INVALID_VALUE; }
  if (!a->live) { fault("double free of %#lx", (long)p); return CUDA_ERROR_INVALID_VALUE; }
  a->live = 0; mem_used -= (a->n + 511) & ~511ull;
  u64 o = p - base, len = (a->n + 4095) & ~4095ull; fallocate(mfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, o, len); return R;
}
static CUresult d_chk(u64 p, u64 n, const char *what) {                    /* [p,p+n) inside one live allocation? */
  if (!n) return R;
  Al *a = find(p);
  if (!a || p >= a->p + a->n + (1 << 16)) { fault("%s: %#lx is no device allocation", what, (long)p); return CUDA_ERROR_INVALID_VALUE; }
  if (!a->live) { fault("%s: device memory %#lx (+%lu) was freed", what, (long)a->p, (long)(p - a->p)); return CUDA_ERROR_INVALID_VALUE; }
  if (p + n > a->p + a->n) { fault("%s: %lu bytes at +%lu overrun allocation %#lx of %lu bytes", what, (long)n, (long)(p - a->p), (long)a->p, (long)a->n); return CUDA_ERROR_INVALID_VALUE; }
  return R;
}
static Hm *hfind(const void *q) { u64 p = (u64)q; for (int i = nhm; i--;) if (hm[i].live && p >= hm[i].p && p < hm[i].p + hm[i].n) return &hm[i]; return 0; }
static CUresult h_chk(const void *q, u64 n, const char *what) {            /* pinned ranges are bounds-checked too */
  Hm *h = hfind(q); if (h && (u64)q + n > h->p + h->n) { fault("%s: %lu bytes overrun the pinned block of %lu bytes", what, (long)n, (long)h->n); return CUDA_ERROR_INVALID_VALUE; }
  for (int i = 0; i < nhm && !h; i++) if (!hm[i].live && !hm[i].reg && (u64)q >= hm[i].p && (u64)q < hm[i].p + hm[i].n) { fault("%s: pinned host memory %p was freed", what, q); return CUDA_ERROR_INVALID_VALUE; }
  return R;
}

/* ------------------------------------------------------------------ streams: in-order queues */
static void run_to(St *s, u64 seq);
static void exec(St *s, Op *o) {
  switch (o->kind) {
  case O_COPY: {
    const u8 *src = o->snap ? o->snap : o->src; u8 *dst = o->dst;
    if (is_dev((u64)dst) && d_chk((u64)dst, o->n, "stream copy, destination")) break;
    if (!o->snap && is_dev((u64)src) && d_chk((u64)src, o->n, "stream copy, source")) break;
    if (!is_dev((u64)dst) && h_chk(dst, o->n, "stream copy, host destination")) break;
    if (!o->snap && !is_dev((u64)src) && h_chk(src, o->n, "stream copy, host source")) break;
    memmove(is_dev((u64)dst) ? H((u64)dst) : dst, !o->snap && is_dev((u64)src) ? H((u64)src) : src, o->n); break; }
  case O_SET: {
    if (d_chk(o->d, o->n * o->vs, "stream memset")) break;
    u8 *p = H(o->d); if (o->vs == 1) memset(p, o->v, o->n); else if (o->vs == 2) for (size_t i = 0; i < o->n; i++) ((uint16_t *)p)[i] = o->v; else for (size_t i = 0; i < o->n; i++) ((u32 *)p)[i] = o->v; break; }
  case O_REC: if (o->ev->magic == M_EVENT && o->ev->seq == o->seq && o->ev->st == s) o->ev->t = now(); break;
  case O_WAIT: if (o->other) run_to(o->other, o->oseq); break;
  case O_HOST: pthread_mutex_unlock(&mu); o->fn(o->ud); pthread_mutex_lock(&mu); break;   /* others go on meanwhile */
  case O_CALLBACK: ((CUstreamCallback)o->fn)(s->builtin ? 0 : s, R, o->ud); break;
  case O_KERN: for (int i = 0; i < o->np; i++) { Al *a = find(o->ptrs[i]); if (a && !a->live && o->ptrs[i] < a->p + a->n) fault("kernel %s runs with freed device memory %#lx", ((Fn *)o->mod)->name, (long)o->ptrs[i]); } break;
  case O_FREE: d_free(o->d); break;
  }
}
static void run1(St *s) { Op *o = s->h; if (!o) return; s->h = o->next; if (!s->h) s->t = 0; s->busy = 1; s->runner = pthread_self(); exec(s, o); s->busy = 0; s->done = o->seq; pthread_cond_broadcast(&idle); free(o->snap); free(o->ptrs); free(o); }
static void run_to(St *s, u64 seq) {
  for (;;) {
    if (s->busy) { if (pthread_equal(s->runner, pthread_self())) return; pthread_cond_wait(&idle, &mu); }
    else if (s->h && s->h->seq <= seq) run1(s);
    else return;
  }
}
static void drain(St *s) { run_to(s, ~0ull); }
static void drain_all(void) { drain(&st_null); drain(&st_ptds); for (St *s = streams; s; s = s->next) if (s->magic == M_STREAM) drain(s); }
static void drain_blocking(void) { drain(&st_null); for (St *s = streams; s; s = s->next) if (s->magic == M_STREAM && !(s->flags & CU_STREAM_NON_BLOCKING)) drain(s); }
static St *S(CUstream h) { if (!h || h == CU_STREAM_LEGACY) return &st_null; if (h == CU_STREAM_PER_THREAD) return &st_ptds; return ((u64)h > 4096 && ((St *)h)->magic == M_STREAM) ? (St *)h : 0; }
static CUresult push(CUstream hs, Op o) {
  St *s = S(hs); if (!s) { fault("work on a destroyed or invalid stream %p", hs); return CUDA_ERROR_INVALID_HANDLE; }
  if (s->cap) {                                                            /* captured, not done */
    if (o.kind == O_REC || o.kind == O_WAIT || o.kind == O_FREE || o.kind == O_CALLBACK || o.snap) { fault("a capture of events, frees, callbacks or pageable memory, which this simulator does not do"); return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED; }
    s->cap->ops = realloc(s->cap->ops, (s->cap->n + 1) * sizeof o); s->cap->ops[s->cap->n++] = o; return R;
  }
  if (s == &st_null) drain_blocking(); else if (!(s->flags & CU_STREAM_NON_BLOCKING)) drain(&st_null);   /* legacy default stream order */
  Op *q = malloc(sizeof o); *q = o; q->seq = ++s->seq; q->next = 0;
  if (o.kind == O_REC) { o.ev->st = s; o.ev->seq = q->seq; o.ev->recorded = 1; }
  if (s->t) s->t->next = q; else s->h = q;
  s->t = q;
  if (!defer) drain(s);
  return R;
}
static CUresult copy_async(CUstream s, u64 dst, u64 src, size_t n, const char *who) {
  if (!n) return R;
  CUresult r; int dd = is_dev(dst), sd = is_dev(src);
  if (!dst || !src) return CUDA_ERROR_INVALID_VALUE;
  if (dd && (r = d_chk(dst, n, who))) return r;
  if (sd && (r = d_chk(src, n, who))) return r;
  if (!dd && (r = h_chk((void *)dst, n, who))) return r;
  if (!sd && (r = h_chk((void *)src, n, who))) return r;
  if (!sd && !hfind((void *)src)) lg("   (pageable source: staged)\n");
  Op o = {.kind = O_COPY, .dst = (void *)dst, .src = (void *)src, .n = n};
  if (!sd && !hfind((void *)src) && defer) { o.snap = malloc(n); memcpy(o.snap, (void *)src, n); }       /* pageable source: staged at the call */
  r = push(s, o);
  if (!r && !dd && !hfind((void *)dst)) { lg("   (pageable destination: synchronous)\n"); drain(S(s)); }
  return r;
}
static CUresult copy_sync(u64 dst, u64 src, size_t n, const char *who) { drain_blocking(); CUresult r = copy_async(0, dst, src, n, who); drain(&st_null); return r; }

/* ------------------------------------------------------------------ init, device */
CUresult cuInit(unsigned f) { ENTER("%u", f); if (f) RET(CUDA_ERROR_INVALID_VALUE); inited = 1; RET(arena() ? CUDA_ERROR_OUT_OF_MEMORY : R); }
CUresult cuDriverGetVersion(int *v) { ENTER(); NN(v); *v = CUDA_VERSION; RET(R); }
CUresult cuDeviceGetCount(int *n) { ENTER(); NN(n); if (!inited) RET(CUDA_ERROR_NOT_INITIALIZED); *n = 1; RET(R); }
CUresult cuDeviceGet(CUdevice *d, int i) { ENTER("%d", i); NN(d); if (!inited) RET(CUDA_ERROR_NOT_INITIALIZED); if (i) RET(CUDA_ERROR_INVALID_DEVICE); *d = 0; RET(R); }
CUresult cuDeviceGetName(char *s, int n, CUdevice d) { ENTER(); if (d) RET(CUDA_ERROR_INVALID_DEVICE); snprintf(s, n, "cudasim host-memory simulator sm_%d (NOT A GPU)", cc); RET(R); }
CUresult cuDeviceTotalMem(size_t *n, CUdevice d) { ENTER(); if (d) RET(CUDA_ERROR_INVALID_DEVICE); *n = mem_total; RET(R); }
#undef cuDeviceGetUuid
CUresult cuDeviceGetUuid(CUuuid *u, CUdevice d) { ENTER(); memcpy(u->bytes, "cudasim-device-0", 16); RET(R); }
CUresult cuDeviceGetUuid_v2(CUuuid *u, CUdevice d) { ENTER(); memcpy(u->bytes, "cudasim-device-0", 16); RET(R); }
CUresult cuDeviceGetLuid(char *l, unsigned *m, CUdevice d) { ENTER(); RET(CUDA_ERROR_NOT_SUPPORTED); }
CUresult cuDeviceGetPCIBusId(char *s, int n, CUdevice d) { ENTER(); snprintf(s, n, "0000:01:00.0"); RET(R); }
CUresult cuDeviceGetByPCIBusId(CUdevice *d, const char *s) { ENTER("%s", s); *d = 0; RET(R); }
CUresult cuDeviceComputeCapability(int *a, int *b, CUdevice d) { ENTER(); *a = cc / 10; *b = cc % 10; RET(R); }
CUresult cuDeviceCanAccessPeer(int *a, CUdevice d, CUdevice e) { ENTER(); *a = 0; RET(R); }
CUresult cuDeviceGetExecAffinitySupport(int *p, CUexecAffinityType t, CUdevice d) { ENTER(); *p = 0; RET(R); }
CUresult cuDeviceGetAttribute(int *p, CUdevice_attribute a, CUdevice d) {
  ENTER("%d", a); NN(p); if (d) RET(CUDA_ERROR_INVALID_DEVICE);
  int mj = cc / 10, mn = cc % 10, shsm = cc == 80 || cc == 87 ? 164 : cc == 90 || mj == 10 ? 228 : cc == 75 ? 64 : 100, v = 0;
  switch ((int)a) {
  case 1: case 2: case 3: v = 1024; break; case 4: v = 64; break; case 5: v = 0x7fffffff; break; case 6: case 7: v = 65535; break;
  case 8: v = 49152; break; case 9: v = 65536; break; case 10: v = 32; break; case 11: v = 0x7fffffff; break; case 12: case 82: v = 65536; break;
  case 13: v = 1700000; break; case 14: v = 512; break; case 15: case 19: case 31: case 41: case 42 + 36: case 79: case 80: case 90: case 91: case 95: case 99: v = 1; break;
  case 16: v = 82; break; case 21: v = 131072; break; case 22: v = 131072; break; case 23: v = 65536; break; case 24: case 25: case 26: v = 16384; break; case 27: case 28: v = 32768; break; case 29: v = 2048; break;
  case 30: v = 512; break; case 33: v = 1; break; case 36: v = 9751000; break; case 37: v = 384; break; case 38: v = 6 << 20; break; case 39: v = mj == 8 && mn ? 1536 : cc == 75 ? 1024 : mj == 12 ? 1536 : 2048; break;
  case 40: v = 2; break; case 51: v = 32; break; case 55: case 56: case 69: case 70: case 71: v = 131072; break; case 72: v = 1 << 21; break; case 73: case 74: v = 32768; break; case 77: v = 32768; break;
  case 75: v = mj; break; case 76: v = mn; break; case 81: v = shsm * 1024; break; case 97: v = (shsm - 1) * 1024; break; case 111: v = 1024; break;
  case 83: v = 0; break; case 87: v = 32; break; case 106: v = mj == 8 && mn == 6 ? 16 : mj == 8 && mn == 9 ? 24 : 32; break; case 115: v = 1; break; case 122: case 123: v = 1; break;
  case 120: v = cc >= 90; break; case 129: v = 1; break; case 134: case 131: v = -1; break; case 126: v = 1; break; case 102: v = 0; break; case 108: v = 4 << 20; break; case 109: v = 128 << 20; break;
  default: v = 0; if ((int)a < 1 || (int)a > 160) RET(CUDA_ERROR_INVALID_VALUE);
  }
  *p = v; RET(R);
}
CUresult cuDeviceGetP2PAttribute(int *p, CUdevice_P2PAttribute a, CUdevice s, CUdevice d) { ENTER(); *p = 0; RET(R); }
static const struct { int e; const char *n, *s; } errs[] = {{0, "CUDA_SUCCESS", "no error"}, {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"}, {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"}, {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"}, {4, "CUDA_ERROR_DEINITIALIZED", "driver shutting down"}, {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"}, {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"}, {200, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"}, {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"}, {209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"}, {218, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"}, {400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"}, {500, "CUDA_ERROR_NOT_FOUND", "named symbol not found"}, {600, "CUDA_ERROR_NOT_READY", "device not ready"}, {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"}, {709, "CUDA_ERROR_CONTEXT_IS_DESTROYED", "context is destroyed"}, {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"}, {801, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"}, {999, "CUDA_ERROR_UNKNOWN", "unknown error"}};
CUresult cuGetErrorName(CUresult e, const char **s) { for (unsigned i = 0; i < sizeof errs / sizeof *errs; i++) if (errs[i].e == (int)e) { *s = errs[i].n; return R; } *s = "CUDA_ERROR_(simulated)"; return R; }
CUresult cuGetErrorString(CUresult e, const char **s) { for (unsigned i = 0; i < sizeof errs / sizeof *errs; i++) if (errs[i].e == (int)e) { *s = errs[i].s; return R; } *s = "error from cudasim"; return R; }

/* ------------------------------------------------------------------ contexts */
static Cx *mkctx(int flags, int prim) { Cx *c = calloc(1, sizeof *c); c->magic = M_CTX; c->flags = flags; c->primary = prim; c->refs = 1; c->id = ids++; c->limit[0] = 1024; c->limit[1] = 1 << 20; c->limit[2] = 8 << 20; return c; }
static void ctx_end(Cx *c) {
  drain_all(); c->magic = M_DEAD;
  for (St *s = streams; s; s = s->next) if (s->ctx == c && s->magic == M_STREAM) s->magic = M_DEAD;
  for (Ev *e = events; e; e = e->next) if (e->ctx == c) e->magic = M_DEAD;
}
CUresult cuDevicePrimaryCtxRetain(CUcontext *c, CUdevice d) { ENTER("%d", d); if (!inited) RET(CUDA_ERROR_NOT_INITIALIZED); NN(c); if (d) RET(CUDA_ERROR_INVALID_DEVICE); if (!primary || primary->magic != M_CTX) primary = mkctx(0, 1); else primary->refs++; *c = (CUcontext)primary; RET(R); }
CUresult cuDevicePrimaryCtxRelease(CUdevice d) { ENTER(); if (!primary || primary->magic != M_CTX) RET(CUDA_ERROR_INVALID_CONTEXT); if (!--primary->refs) ctx_end(primary); RET(R); }
CUresult cuDevicePrimaryCtxReset(CUdevice d) { ENTER(); if (primary && primary->magic == M_CTX) ctx_end(primary); RET(R); }
CUresult cuDevicePrimaryCtxGetState(CUdevice d, unsigned *f, int *a) { ENTER(); int on = primary && primary->magic == M_CTX; if (f) *f = on ? primary->flags : 0; if (a) *a = on; RET(R); }
CUresult cuDevicePrimaryCtxSetFlags(CUdevice d, unsigned f) { ENTER("%u", f); if (primary) primary->flags = f; RET(R); }
#undef cuCtxCreate
static CUresult ctx_create(CUcontext *c, unsigned f) { if (!inited) return CUDA_ERROR_NOT_INITIALIZED; if (!c) return CUDA_ERROR_INVALID_VALUE; Cx *x = mkctx(f, 0); stack[sp++] = x; *c = (CUcontext)x; return R; }
CUresult cuCtxCreate_v2(CUcontext *c, unsigned f, CUdevice d) { ENTER("%u,%d", f, d); RET(d ? CUDA_ERROR_INVALID_DEVICE : ctx_create(c, f)); }
CUresult cuCtxCreate_v3(CUcontext *c, CUexecAffinityParam *p, int n, unsigned f, CUdevice d) { ENTER("%u,%d", f, d); RET(d ? CUDA_ERROR_INVALID_DEVICE : ctx_create(c, f)); }
CUresult cuCtxCreate_v4(CUcontext *c, CUctxCreateParams *p, unsigned f, CUdevice d) { ENTER("%u,%d", f, d); RET(d ? CUDA_ERROR_INVALID_DEVICE : ctx_create(c, f)); }
CUresult cuCtxDestroy(CUcontext h) { ENTER("%p", h); Cx *c = (Cx *)h; NN(c); if (c->magic != M_CTX) RET(CUDA_ERROR_CONTEXT_IS_DESTROYED); ctx_end(c); if (sp && stack[sp - 1] == c) sp--; RET(R); }
CUresult cuCtxPushCurrent(CUcontext c) { ENTER("%p", c); NN(c); stack[sp++] = (Cx *)c; RET(R); }
CUresult cuCtxPopCurrent(CUcontext *c) { ENTER(); if (!sp) RET(CUDA_ERROR_INVALID_CONTEXT); sp--; if (c) *c = (CUcontext)stack[sp]; RET(R); }
CUresult cuCtxSetCurrent(CUcontext c) { ENTER("%p", c); if (!c) { if (sp) sp--; } else if (sp) stack[sp - 1] = (Cx *)c; else stack[sp++] = (Cx *)c; RET(R); }
CUresult cuCtxGetCurrent(CUcontext *c) { ENTER(); NN(c); if (!inited) RET(CUDA_ERROR_NOT_INITIALIZED); *c = (CUcontext)cur(); RET(R); }
CUresult cuCtxGetDevice(CUdevice *d) { ENTER(); CTX(); *d = 0; RET(R); }
CUresult cuCtxGetFlags(unsigned *f) { ENTER(); CTX(); *f = cur()->flags; RET(R); }
CUresult cuCtxSetFlags(unsigned f) { ENTER(); CTX(); cur()->flags = f; RET(R); }
CUresult cuCtxGetId(CUcontext c, unsigned long long *i) { ENTER(); Cx *x = c ? (Cx *)c : cur(); if (!x) RET(CUDA_ERROR_INVALID_CONTEXT); *i = x->id; RET(R); }
CUresult cuCtxGetApiVersion(CUcontext c, unsigned *v) { ENTER(); *v = 3020; RET(R); }
CUresult cuCtxSynchronize(void) { ENTER(); CTX(); drain_all(); RET(R); }
CUresult cuCtxSetLimit(CUlimit l, size_t v) { ENTER("%d,%zu", l, v); CTX(); if (l < 16) cur()->limit[l] = v; RET(R); }
CUresult cuCtxGetLimit(size_t *v, CUlimit l) { ENTER("%d", l); CTX(); *v = l < 16 ? cur()->limit[l] : 0; RET(R); }
CUresult cuCtxGetCacheConfig(CUfunc_cache *c) { ENTER(); CTX(); *c = 0; RET(R); }
CUresult cuCtxSetCacheConfig(CUfunc_cache c) { ENTER(); CTX(); RET(R); }
CUresult cuCtxGetSharedMemConfig(CUsharedconfig *c) { ENTER(); CTX(); *c = 1; RET(R); }
CUresult cuCtxGetStreamPriorityRange(int *a, int *b) { ENTER(); CTX(); if (a) *a = 0; if (b) *b = -5; RET(R); }
CUresult cuCtxResetPersistingL2Cache(void) { ENTER(); RET(R); }
CUresult cuCtxAttach(CUcontext *c, unsigned f) { ENTER(); CTX(); cur()->refs++; *c = (CUcontext)cur(); RET(R); }
CUresult cuCtxDetach(CUcontext c) { ENTER(); if (c && !--((Cx *)c)->refs) { ctx_end((Cx *)c); if (sp && stack[sp - 1] == (Cx *)c) sp--; } RET(R); }

/* ------------------------------------------------------------------ memory entries */
CUresult cuMemGetInfo(size_t *f, size_t *t) { ENTER(); CTX(); *f = mem_total - mem_used; *t = mem_total; RET(R); }
CUresult cuMemAlloc(CUdeviceptr *p, size_t n) { ENTER("%zu", n); CTX(); NOT_CAPTURING("cuMemAlloc"); CUresult r = d_alloc(p, n, 0, 0); if (!r) lg("   -> %#llx\n", *p); RET(r); }
CUresult cuMemAllocPitch(CUdeviceptr *p, size_t *pitch, size_t w, size_t h, unsigned e) { ENTER("%zu,%zu", w, h); CTX(); *pitch = (w + 511) & ~511ull; RET(d_alloc(p, *pitch * h, 0, 0)); }
CUresult cuMemAllocManaged(CUdeviceptr *p, size_t n, unsigned f) { ENTER("%zu", n); CTX(); RET(CUDA_ERROR_NOT_SUPPORTED); }
CUresult cuMemFree(CUdeviceptr p) { ENTER("%#llx", p); CTX(); NOT_CAPTURING("cuMemFree"); if (!p) RET(R); drain_all(); RET(d_free(p)); }
CUresult cuMemAllocAsync(CUdeviceptr *p, size_t n, CUstream s) { ENTER("%zu,%p", n, s); CTX(); if (!S(s)) RET(CUDA_ERROR_INVALID_HANDLE); CUresult r = d_alloc(p, n, 1, &defpool); if (!r) lg("   -> %#llx\n", *p); RET(r); }
CUresult cuMemAllocFromPoolAsync(CUdeviceptr *p, size_t n, CUmemoryPool pl, CUstream s) { ENTER("%zu,%p,%p", n, pl, s); CTX(); if (!S(s)) RET(CUDA_ERROR_INVALID_HANDLE); RET(d_alloc(p, n, 1, pl)); }
CUresult cuMemFreeAsync(CUdeviceptr p, CUstream s) { ENTER("%#llx,%p", p, s); CTX(); if (!p) RET(CUDA_ERROR_INVALID_VALUE); RET(push(s, (Op){.kind = O_FREE, .d = p})); }
CUresult cuMemGetAddressRange(CUdeviceptr *b, size_t *n, CUdeviceptr p) { ENTER("%#llx", p); Al *a = find(p); if (!a || !a->live || p >= a->p + a->n) RET(CUDA_ERROR_NOT_FOUND); if (b) *b = a->p; if (n) *n = a->n; RET(R); }
CUresult cuDeviceGetDefaultMemPool(CUmemoryPool *p, CUdevice d) { ENTER(); *p = (CUmemoryPool)&defpool; RET(R); }
CUresult cuDeviceGetMemPool(CUmemoryPool *p, CUdevice d) { ENTER(); *p = (CUmemoryPool)&defpool; RET(R); }
CUresult cuDeviceSetMemPool(CUdevice d, CUmemoryPool p) { ENTER(); RET(R); }
CUresult cuMemPoolCreate(CUmemoryPool *p, const CUmemPoolProps *q) { ENTER(); Pool *x = calloc(1, sizeof *x); x->magic = M_POOL; *p = (CUmemoryPool)x; RET(R); }
CUresult cuMemPoolDestroy(CUmemoryPool p) { ENTER(); RET(R); }
CUresult cuMemPoolSetAttribute(CUmemoryPool p, CUmemPool_attribute a, void *v) { ENTER("%p,%d", p, a); if (a == CU_MEMPOOL_ATTR_RELEASE_THRESHOLD) ((Pool *)p)->thr = *(u64 *)v; RET(R); }
CUresult cuMemPoolGetAttribute(CUmemoryPool p, CUmemPool_attribute a, void *v) { ENTER("%p,%d", p, a); if (a <= CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES) *(int *)v = 1; else { u64 n = 0; for (int i = 0; i < nal; i++) if (al[i].live && al[i].pool == p) n += al[i].n; *(u64 *)v = a == CU_MEMPOOL_ATTR_RELEASE_THRESHOLD ? ((Pool *)p)->thr : n; } RET(R); }
CUresult cuMemPoolTrimTo(CUmemoryPool p, size_t n) { ENTER(); RET(R); }
CUresult cuMemPoolSetAccess(CUmemoryPool p, const CUmemAccessDesc *d, size_t n) { ENTER(); RET(R); }
static CUresult h_alloc(void **p, size_t n) {
  if (!p || !n) return CUDA_ERROR_INVALID_VALUE;
  void *q = mmap(0, (n + 4095) & ~4095ull, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (q == MAP_FAILED || nhm == 1 << 16) return CUDA_ERROR_OUT_OF_MEMORY;
  memset(q, 0xff, n); hm[nhm++] = (Hm){(u64)q, n, 1, 0}; *p = q; return R;
}
CUresult cuMemHostAlloc(void **p, size_t n, unsigned f) { ENTER("%zu,%u", n, f); CTX(); CUresult r = h_alloc(p, n); if (!r) lg("   -> %p\n", *p); RET(r); }
CUresult cuMemAllocHost(void **p, size_t n) { ENTER("%zu", n); CTX(); RET(h_alloc(p, n)); }
CUresult cuMemFreeHost(void *p) { ENTER("%p", p); CTX(); drain_all(); Hm *h = hfind(p); if (!h || h->reg || h->p != (u64)p) { fault("cuMemFreeHost(%p): not a live pinned block", p); RET(CUDA_ERROR_INVALID_VALUE); } h->live = 0; mprotect(p, (h->n + 4095) & ~4095ull, PROT_NONE); madvise(p, (h->n + 4095) & ~4095ull, MADV_DONTNEED); RET(R); }
CUresult cuMemHostRegister(void *p, size_t n, unsigned f) { ENTER("%p,%zu,%u", p, n, f); CTX(); NN(p); if (hfind(p)) RET(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED); hm[nhm++] = (Hm){(u64)p, n, 1, 1}; RET(R); }
CUresult cuMemHostUnregister(void *p) { ENTER("%p", p); CTX(); drain_all(); Hm *h = hfind(p); if (!h || !h->reg) RET(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED); h->live = 0; RET(R); }
CUresult cuMemHostGetDevicePointer(CUdeviceptr *d, void *p, unsigned f) { ENTER("%p", p); if (!hfind(p)) RET(CUDA_ERROR_INVALID_VALUE); *d = (u64)p; RET(R); }
CUresult cuMemHostGetFlags(unsigned *f, void *p) { ENTER("%p", p); if (!hfind(p)) RET(CUDA_ERROR_INVALID_VALUE); *f = 0; RET(R); }
CUresult cuMemcpy(CUdeviceptr d, CUdeviceptr s, size_t n) { ENTER("%#llx,%#llx,%zu", d, s, n); CTX(); RET(copy_sync(d, s, n, __func__)); }
CUresult cuMemcpyAsync(CUdeviceptr d, CUdeviceptr s, size_t n, CUstream t) { ENTER("%#llx,%#llx,%zu,%p", d, s, n, t); CTX(); RET(copy_async(t, d, s, n, __func__)); }
CUresult cuMemcpyPeer(CUdeviceptr d, CUcontext a, CUdeviceptr s, CUcontext b, size_t n) { ENTER("%zu", n); RET(copy_sync(d, s, n, __func__)); }
CUresult cuMemcpyHtoD(CUdeviceptr d, const void *s, size_t n) { ENTER("%#llx,%p,%zu", d, s, n); CTX(); if (!is_dev(d)) RET(CUDA_ERROR_INVALID_VALUE); RET(copy_sync(d, (u64)s, n, __func__)); }
CUresult cuMemcpyDtoH(void *d, CUdeviceptr s, size_t n) { ENTER("%p,%#llx,%zu", d, s, n); CTX(); if (!is_dev(s)) RET(CUDA_ERROR_INVALID_VALUE); RET(copy_sync((u64)d, s, n, __func__)); }
CUresult cuMemcpyDtoD(CUdeviceptr d, CUdeviceptr s, size_t n) { ENTER("%#llx,%#llx,%zu", d, s, n); CTX(); RET(copy_sync(d, s, n, __func__)); }
CUresult cuMemcpyHtoDAsync(CUdeviceptr d, const void *s, size_t n, CUstream t) { ENTER("%#llx,%p,%zu,%p", d, s, n, t); CTX(); if (!is_dev(d)) RET(CUDA_ERROR_INVALID_VALUE); RET(copy_async(t, d, (u64)s, n, __func__)); }
CUresult cuMemcpyDtoHAsync(void *d, CUdeviceptr s, size_t n, CUstream t) { ENTER("%p,%#llx,%zu,%p", d, s, n, t); CTX(); if (!is_dev(s)) RET(CUDA_ERROR_INVALID_VALUE); RET(copy_async(t, (u64)d, s, n, __func__)); }
CUresult cuMemcpyDtoDAsync(CUdeviceptr d, CUdeviceptr s, size_t n, CUstream t) { ENTER("%#llx,%#llx,%zu,%p", d, s, n, t); CTX(); RET(copy_async(t, d, s, n, __func__)); }
static CUresult c2d(const CUDA_MEMCPY2D *c, CUstream t, int sync) {
  u64 d = c->dstMemoryType == CU_MEMORYTYPE_HOST ? (u64)c->dstHost : c->dstDevice, s = c->srcMemoryType == CU_MEMORYTYPE_HOST ? (u64)c->srcHost : c->srcDevice; CUresult r = R;
  if (c->dstMemoryType == CU_MEMORYTYPE_ARRAY || c->srcMemoryType == CU_MEMORYTYPE_ARRAY) return CUDA_ERROR_NOT_SUPPORTED;
  for (size_t y = 0; y < c->Height && !r; y++) { u64 a = d + (c->dstY + y) * c->dstPitch + c->dstXInBytes, b = s + (c->srcY + y) * c->srcPitch + c->srcXInBytes; r = sync ? copy_sync(a, b, c->WidthInBytes, "2D copy") : copy_async(t, a, b, c->WidthInBytes, "2D copy"); }
  return r;
}
CUresult cuMemcpy2D(const CUDA_MEMCPY2D *c) { ENTER("%zux%zu", c->WidthInBytes, c->Height); CTX(); RET(c2d(c, 0, 1)); }
CUresult cuMemcpy2DUnaligned(const CUDA_MEMCPY2D *c) { ENTER("%zux%zu", c->WidthInBytes, c->Height); CTX(); RET(c2d(c, 0, 1)); }
CUresult cuMemcpy2DAsync(const CUDA_MEMCPY2D *c, CUstream t) { ENTER("%zux%zu,%p", c->WidthInBytes, c->Height, t); CTX(); RET(c2d(c, t, 0)); }
static CUresult mset(CUdeviceptr d, u32 v, size_t n, int vs, CUstream t, int sync) { CUresult r; if ((r = d_chk(d, n * vs, "memset"))) return r; r = push(t, (Op){.kind = O_SET, .d = d, .v = v, .n = n, .vs = vs}); if (sync) drain(S(t)); return r; }
CUresult cuMemsetD8(CUdeviceptr d, unsigned char v, size_t n) { ENTER("%#llx,%u,%zu", d, v, n); CTX(); RET(mset(d, v, n, 1, 0, 1)); }
CUresult cuMemsetD16(CUdeviceptr d, unsigned short v, size_t n) { ENTER("%#llx,%u,%zu", d, v, n); CTX(); RET(mset(d, v, n, 2, 0, 1)); }
CUresult cuMemsetD32(CUdeviceptr d, unsigned v, size_t n) { ENTER("%#llx,%u,%zu", d, v, n); CTX(); RET(mset(d, v, n, 4, 0, 1)); }
CUresult cuMemsetD8Async(CUdeviceptr d, unsigned char v, size_t n, CUstream t) { ENTER("%#llx,%u,%zu,%p", d, v, n, t); CTX(); RET(mset(d, v, n, 1, t, 0)); }
CUresult cuMemsetD16Async(CUdeviceptr d, unsigned short v, size_t n, CUstream t) { ENTER("%#llx,%u,%zu,%p", d, v, n, t); CTX(); RET(mset(d, v, n, 2, t, 0)); }
CUresult cuMemsetD32Async(CUdeviceptr d, unsigned v, size_t n, CUstream t) { ENTER("%#llx,%u,%zu,%p", d, v, n, t); CTX(); RET(mset(d, v, n, 4, t, 0)); }
static CUresult pattr(void *o, CUpointer_attribute a, u64 p) {
  Al *x = is_dev(p) ? find(p) : 0; Hm *h = hfind((void *)p); int dv = x && x->live && p < x->p + x->n;
  switch (a) {
  case CU_POINTER_ATTRIBUTE_CONTEXT: *(void **)o = (dv || h) ? (void *)cur() : 0; break;
  case CU_POINTER_ATTRIBUTE_MEMORY_TYPE: if (!dv && !h) return CUDA_ERROR_INVALID_VALUE; *(unsigned *)o = dv ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST; break;
  case CU_POINTER_ATTRIBUTE_DEVICE_POINTER: *(u64 *)o = (dv || h) ? p : 0; break;
  case CU_POINTER_ATTRIBUTE_HOST_POINTER: *(u64 *)o = h ? p : 0; break;
  case CU_POINTER_ATTRIBUTE_IS_MANAGED: *(unsigned *)o = 0; break;
  case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL: *(int *)o = (dv || h) ? 0 : -2; break;
  case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR: *(u64 *)o = dv ? x->p : h ? h->p : 0; break;
  case CU_POINTER_ATTRIBUTE_RANGE_SIZE: *(size_t *)o = dv ? x->n : h ? h->n : 0; break;
  case CU_POINTER_ATTRIBUTE_MAPPED: *(unsigned char *)o = dv || h; break;
  case CU_POINTER_ATTRIBUTE_BUFFER_ID: *(u64 *)o = dv ? x - al + 1 : 0; break;
  case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE: *(void **)o = dv ? x->pool : 0; break;
  default: return CUDA_ERROR_NOT_SUPPORTED;
  }
  return R;
}
CUresult cuPointerGetAttribute(void *o, CUpointer_attribute a, CUdeviceptr p) { ENTER("%d,%#llx", a, p); RET(pattr(o, a, p)); }
CUresult cuPointerGetAttributes(unsigned n, CUpointer_attribute *a, void **o, CUdeviceptr p) { ENTER("%u,%#llx", n, p); for (unsigned i = 0; i < n; i++) if (pattr(o[i], a[i], p)) *(u64 *)o[i] = 0; RET(R); }
CUresult cuPointerSetAttribute(const void *v, CUpointer_attribute a, CUdeviceptr p) { ENTER("%d,%#llx", a, p); RET(R); }

/* ------------------------------------------------------------------ streams and events */
static CUresult mkst(CUstream *o, unsigned f, int pr) { St *s = calloc(1, sizeof *s); s->magic = M_STREAM; s->ctx = cur(); s->flags = f; s->prio = pr; s->id = ids++; s->next = streams; streams = s; *o = (CUstream)s; lg("   -> stream %p\n", s); return R; }
CUresult cuStreamCreate(CUstream *s, unsigned f) { ENTER("%u", f); CTX(); NN(s); RET(mkst(s, f, 0)); }
CUresult cuStreamCreateWithPriority(CUstream *s, unsigned f, int p) { ENTER("%u,%d", f, p); CTX(); NN(s); RET(mkst(s, f, p)); }
CUresult cuStreamDestroy(CUstream h) { ENTER("%p", h); St *s = S(h); if (!s || s->builtin) RET(CUDA_ERROR_INVALID_HANDLE); drain(s); s->magic = M_DEAD; RET(R); }
CUresult cuStreamSynchronize(CUstream h) { ENTER("%p", h); CTX(); NOT_CAPTURING("cuStreamSynchronize"); St *s = S(h); if (!s) { fault("sync of a destroyed stream %p", h); RET(CUDA_ERROR_INVALID_HANDLE); } if (s == &st_null) drain_blocking(); drain(s); RET(R); }
CUresult cuStreamQuery(CUstream h) { ENTER("%p", h); CTX(); St *s = S(h); if (!s) RET(CUDA_ERROR_INVALID_HANDLE); if (s->busy) RET(CUDA_ERROR_NOT_READY); if (s->h) { run1(s); RET(CUDA_ERROR_NOT_READY); } RET(R); }
CUresult cuStreamGetFlags(CUstream h, unsigned *f) { ENTER("%p", h); St *s = S(h); if (!s) RET(CUDA_ERROR_INVALID_HANDLE); *f = s->flags; RET(R); }
CUresult cuStreamGetPriority(CUstream h, int *p) { ENTER("%p", h); St *s = S(h); if (!s) RET(CUDA_ERROR_INVALID_HANDLE); *p = s->prio; RET(R); }
CUresult cuStreamGetId(CUstream h, unsigned long long *p) { ENTER("%p", h); St *s = S(h); if (!s) RET(CUDA_ERROR_INVALID_HANDLE); *p = s->id; RET(R); }
CUresult cuStreamGetDevice(CUstream h, CUdevice *d) { ENTER("%p", h); *d = 0; RET(R); }
#undef cuStreamGetCtx
CUresult cuStreamGetCtx(CUstream h, CUcontext *c) { ENTER("%p", h); St *s = S(h); if (!s) RET(CUDA_ERROR_INVALID_HANDLE); *c = (CUcontext)(s->ctx ? s->ctx : cur()); RET(R); }
CUresult cuStreamGetCtx_v2(CUstream h, CUcontext *c, CUgreenCtx *g) { ENTER("%p", h); St *s = S(h); if (!s) RET(CUDA_ERROR_INVALID_HANDLE); *c = (CUcontext)(s->ctx ? s->ctx : cur()); if (g) *g = 0; RET(R); }
CUresult cuStreamWaitEvent(CUstream h, CUevent e, unsigned f) { ENTER("%p,%p", h, e); CTX(); Ev *v = (Ev *)e; if (!v || v->magic != M_EVENT) RET(CUDA_ERROR_INVALID_HANDLE); RET(push(h, (Op){.kind = O_WAIT, .other = v->recorded ? v->st : 0, .oseq = v->seq})); }
CUresult cuStreamAddCallback(CUstream h, CUstreamCallback c, void *u, unsigned f) { ENTER("%p", h); CTX(); RET(push(h, (Op){.kind = O_CALLBACK, .fn = (CUhostFn)c, .ud = u})); }
CUresult cuLaunchHostFunc(CUstream h, CUhostFn f, void *u) { ENTER("%p", h); CTX(); RET(push(h, (Op){.kind = O_HOST, .fn = f, .ud = u})); }
CUresult cuStreamIsCapturing(CUstream h, CUstreamCaptureStatus *c) { ENTER("%p", h); if (!S(h)) RET(CUDA_ERROR_INVALID_HANDLE); *c = S(h)->cap ? CU_STREAM_CAPTURE_STATUS_ACTIVE : CU_STREAM_CAPTURE_STATUS_NONE; RET(R); }
static Gr *mkgr(u32 magic, Gr *of) { Gr *g = calloc(1, sizeof *g); g->magic = magic; g->next = graphs; graphs = g; if (of) { g->n = of->n; g->ops = malloc((of->n + 1) * sizeof(Op)); memcpy(g->ops, of->ops, of->n * sizeof(Op)); } lg("   -> graph %p of %d\n", g, g->n); return g; }
static Gr *gr(void *h, u32 magic) { for (Gr *g = graphs; g; g = g->next) if (g == h && g->magic == magic) return g; fault("%p is no graph, or one that was destroyed", h); return 0; }
CUresult cuStreamBeginCapture(CUstream h, CUstreamCaptureMode m) { ENTER("%p,%d", h, m); CTX(); St *s = S(h); if (!s || s->builtin || s->cap) RET(s ? CUDA_ERROR_ILLEGAL_STATE : CUDA_ERROR_INVALID_HANDLE); s->cap = mkgr(M_GRAPH, 0); capturing++; RET(R); }
CUresult cuStreamEndCapture(CUstream h, CUgraph *g) {                      /* an injected error is a capture that became invalid: it ends all the same */
  int e_ = enter(__func__, "%p", h); St *s = S(h);
  if (e_) { if (s && s->cap) { s->cap->magic = M_DEAD; s->cap = 0; capturing--; } *g = 0; return leave(__func__, (CUresult)e_); }
  CTX(); if (!s || !s->cap) RET(CUDA_ERROR_ILLEGAL_STATE); *g = s->cap; s->cap = 0; capturing--; RET(R);
}
CUresult cuGraphInstantiate(CUgraphExec *e, CUgraph g, unsigned long long f) { ENTER("%p,%llu", g, f); CTX(); Gr *x = gr(g, M_GRAPH); if (!x) RET(CUDA_ERROR_INVALID_VALUE); *e = (CUgraphExec)mkgr(M_EXEC, x); RET(R); }
CUresult cuGraphLaunch(CUgraphExec e, CUstream h) { ENTER("%p,%p", e, h); CTX(); Gr *x = gr(e, M_EXEC); if (!x) RET(CUDA_ERROR_INVALID_VALUE); for (int i = 0; i < x->n; i++) { CUresult r = push(h, x->ops[i]); if (r) RET(r); } RET(R); }
CUresult cuGraphDestroy(CUgraph g) { ENTER("%p", g); Gr *x = gr(g, M_GRAPH); if (!x) RET(CUDA_ERROR_INVALID_VALUE); x->magic = M_DEAD; free(x->ops); RET(R); }
CUresult cuGraphExecDestroy(CUgraphExec e) { ENTER("%p", e); Gr *x = gr(e, M_EXEC); if (!x) RET(CUDA_ERROR_INVALID_VALUE); x->magic = M_DEAD; free(x->ops); RET(R); }
CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode *m) { ENTER(); RET(R); }
#undef cuStreamGetCaptureInfo
CUresult cuStreamGetCaptureInfo(CUstream h, CUstreamCaptureStatus *c, u64 *id) { ENTER("%p", h); if (!S(h)) RET(CUDA_ERROR_INVALID_HANDLE); *c = 0; RET(R); }
CUresult cuStreamGetCaptureInfo_v2(CUstream h, CUstreamCaptureStatus *c, u64 *id, CUgraph *g, const CUgraphNode **d, size_t *n) { ENTER("%p", h); if (!S(h)) RET(CUDA_ERROR_INVALID_HANDLE); *c = 0; RET(R); }
CUresult cuStreamGetCaptureInfo_v3(CUstream h, CUstreamCaptureStatus *c, u64 *id, CUgraph *g, const CUgraphNode **d, const CUgraphEdgeData **e, size_t *n) { ENTER("%p", h); if (!S(h)) RET(CUDA_ERROR_INVALID_HANDLE); *c = 0; RET(R); }
CUresult cuEventCreate(CUevent *e, unsigned f) { ENTER("%u", f); CTX(); NN(e); Ev *v = calloc(1, sizeof *v); v->magic = M_EVENT; v->ctx = cur(); v->flags = f; v->next = events; events = v; *e = (CUevent)v; RET(R); }
#define EV(e) Ev *v = (Ev *)(e); if (!v || v->magic != M_EVENT) { fault("%s on a destroyed or invalid event", __func__); RET(CUDA_ERROR_INVALID_HANDLE); }
CUresult cuEventDestroy(CUevent e) { ENTER("%p", e); EV(e); v->magic = M_DEAD; RET(R); }
CUresult cuEventRecord(CUevent e, CUstream h) { ENTER("%p,%p", e, h); CTX(); EV(e); RET(push(h, (Op){.kind = O_REC, .ev = v})); }
CUresult cuEventRecordWithFlags(CUevent e, CUstream h, unsigned f) { ENTER("%p,%p,%u", e, h, f); CTX(); EV(e); RET(push(h, (Op){.kind = O_REC, .ev = v})); }
CUresult cuEventSynchronize(CUevent e) { ENTER("%p", e); NOT_CAPTURING("cuEventSynchronize"); EV(e); if (v->recorded) run_to(v->st, v->seq); RET(R); }
CUresult cuEventQuery(CUevent e) { ENTER("%p", e); EV(e); if (v->recorded && v->st->done < v->seq) { if (!v->st->busy) run1(v->st); RET(CUDA_ERROR_NOT_READY); } RET(R); }
static CUresult elapsed(float *ms, Ev *a, Ev *b) { if (!a || !b || a->magic != M_EVENT || b->magic != M_EVENT || !a->recorded || !b->recorded || ((a->flags | b->flags) & CU_EVENT_DISABLE_TIMING)) return CUDA_ERROR_INVALID_HANDLE; if (a->st->done < a->seq || b->st->done < b->seq) return CUDA_ERROR_NOT_READY; *ms = (b->t - a->t) * 1e3; return R; }
#undef cuEventElapsedTime
CUresult cuEventElapsedTime(float *ms, CUevent a, CUevent b) { ENTER("%p,%p", a, b); RET(elapsed(ms, (Ev *)a, (Ev *)b)); }
CUresult cuEventElapsedTime_v2(float *ms, CUevent a, CUevent b) { ENTER("%p,%p", a, b); RET(elapsed(ms, (Ev *)a, (Ev *)b)); }

/* ------------------------------------------------------------------ modules, libraries, kernels */
static Mod *mkmod(const void *img) {
  Mod *m = calloc(1, sizeof *m); m->magic = M_MOD; m->next = mods; mods = m; const u8 *b = img;
  if (b && ((const u32 *)b)[0] == 0x466243b1) { b = *(const u8 **)(b + 8); lg("   fatbin wrapper -> %p\n", b); }
  if (!b) m->kind = '?';
  else if (!memcmp(b, "\x7f" "ELF", 4)) {
    const Elf64_Ehdr *e = (const void *)b; const Elf64_Shdr *sh = (const void *)(b + e->e_shoff); const char *ss = (const char *)b + sh[e->e_shstrndx].sh_offset; m->kind = 'E';
    for (int i = 0; i < e->e_shnum; i++) { u64 end = sh[i].sh_type == SHT_NOBITS ? 0 : sh[i].sh_offset + sh[i].sh_size; if (end > m->imgn) m->imgn = end; if (!strncmp(ss + sh[i].sh_name, ".text.", 6)) { m->ks = realloc(m->ks, (m->nk + 1) * sizeof *m->ks); m->kp = realloc(m->kp, (m->nk + 1) * sizeof *m->kp); m->kp[m->nk] = -1; m->ks[m->nk++] = strdup(ss + sh[i].sh_name + 6); } }
    u64 end = e->e_shoff + (u64)e->e_shnum * e->e_shentsize; if (end > m->imgn) m->imgn = end;
    m->arch = e->e_flags >> 8 & 0xff; if (m->arch < 30) m->arch = e->e_flags & 0xff;
    for (int i = 0; i < e->e_shnum; i++) if (!strncmp(ss + sh[i].sh_name, ".nv.constant0.", 14)) for (int k = 0; k < m->nk; k++) if (!strcmp(m->ks[k], ss + sh[i].sh_name + 14) && m->arch >= 70 && m->arch < 90) m->kp[k] = (int)sh[i].sh_size - 0x160;
    lg("   cubin: %zu bytes, sm_%d, %d text sections\n", m->imgn, m->arch, m->nk); for (int i = 0; i < m->nk; i++) lg("     kernel %s, %d parameter bytes\n", m->ks[i], m->kp[i]);
  } else if (((const u32 *)b)[0] == 0xba55ed50) { m->kind = 'F'; m->imgn = *(u64 *)(b + 8) + *(uint16_t *)(b + 6); lg("   fatbin: %zu bytes\n", m->imgn); }
  else if (b[0] >= 9 && b[0] < 127) { m->kind = 'P'; lg("   text (PTX?): %.40s\n", b); }
  else { m->kind = '?'; lg("   image starts %02x %02x %02x %02x\n", b[0], b[1], b[2], b[3]); }
  const char *dd = getenv("CUSIM_DUMP"); static int k; if (dd && m->kind == 'E') { char f[512]; snprintf(f, sizeof f, "%s/m%d.cubin", dd, k++); FILE *o = fopen(f, "wb"); if (o) { fwrite(b, 1, m->imgn, o); fclose(o); } }
  return m;
}
static CUresult ldmod(Mod **o, const void *i) { Mod *m = mkmod(i); if (m->kind == '?') return CUDA_ERROR_INVALID_IMAGE; if (m->kind == 'E' && (m->arch / 10 != cc / 10 || m->arch > cc)) { lg("   cubin is for sm_%d, device is sm_%d\n", m->arch, cc); return CUDA_ERROR_NO_BINARY_FOR_GPU; } *o = m; return R; }
static CUresult getfn(CUfunction *f, Mod *m, const char *n) {
  if (!m || m->magic != M_MOD) return CUDA_ERROR_INVALID_HANDLE;
  if (m->kind == 'E' && m->nk) { int ok = 0; for (int i = 0; i < m->nk; i++) if (!strcmp(m->ks[i], n)) ok = 1; if (!ok) return CUDA_ERROR_NOT_FOUND; }
  int pb = -1; for (int i = 0; i < m->nk; i++) if (!strcmp(m->ks[i], n)) pb = m->kp[i];
  for (Fn *x = m->fns; x; x = x->next) if (!strcmp(x->name, n)) { *f = (CUfunction)x; return R; }
  Fn *x = calloc(1, sizeof *x); x->magic = M_FUNC; x->m = m; x->pbytes = pb; snprintf(x->name, sizeof x->name, "%s", n); x->next = m->fns; m->fns = x; *f = (CUfunction)x; return R;
}
static CUresult getgl(CUdeviceptr *p, size_t *n, Mod *m, const char *s) { for (struct Gl *g = m->gl; g; g = g->next) if (!strcmp(g->name, s)) { if (p) *p = g->p; if (n) *n = g->n; return R; } struct Gl *g = calloc(1, sizeof *g); snprintf(g->name, 256, "%s", s); g->n = 65536; CUresult r = d_alloc(&g->p, g->n, 0, m); if (r) return r; find(g->p)->internal = 1; g->next = m->gl; m->gl = g; if (p) *p = g->p; if (n) *n = g->n; return R; }
CUresult cuModuleLoadData(CUmodule *o, const void *i) { ENTER("%p", i); CTX(); NN(i); RET(ldmod((Mod **)o, i)); }
CUresult cuModuleLoadDataEx(CUmodule *o, const void *i, unsigned n, CUjit_option *a, void **v) { ENTER("%p,%u", i, n); CTX(); NN(i); RET(ldmod((Mod **)o, i)); }
CUresult cuModuleLoadFatBinary(CUmodule *o, const void *i) { ENTER("%p", i); CTX(); NN(i); RET(ldmod((Mod **)o, i)); }
CUresult cuModuleUnload(CUmodule m) { ENTER("%p", m); if (!m || ((Mod *)m)->magic != M_MOD) RET(CUDA_ERROR_INVALID_HANDLE); ((Mod *)m)->magic = M_DEAD; RET(R); }
CUresult cuModuleGetLoadingMode(CUmoduleLoadingMode *m) { ENTER(); *m = CU_MODULE_LAZY_LOADING; RET(R); }
CUresult cuModuleGetFunction(CUfunction *f, CUmodule m, const char *n) { ENTER("%p,%s", m, n); RET(getfn(f, (Mod *)m, n)); }
CUresult cuModuleGetGlobal(CUdeviceptr *p, size_t *n, CUmodule m, const char *s) { ENTER("%p,%s", m, s); CTX(); RET(getgl(p, n, (Mod *)m, s)); }
CUresult cuLibraryLoadData(CUlibrary *l, const void *i, CUjit_option *a, void **b, unsigned c, CUlibraryOption *d, void **e, unsigned f) { ENTER("%p,%u,%u", i, c, f); NN(i); RET(ldmod((Mod **)l, i)); }
CUresult cuLibraryUnload(CUlibrary m) { ENTER("%p", m); if (!m || ((Mod *)m)->magic != M_MOD) RET(CUDA_ERROR_INVALID_HANDLE); ((Mod *)m)->magic = M_DEAD; RET(R); }
CUresult cuLibraryGetKernel(CUkernel *k, CUlibrary m, const char *n) { ENTER("%p,%s", m, n); RET(getfn((CUfunction *)k, (Mod *)m, n)); }
CUresult cuLibraryGetModule(CUmodule *o, CUlibrary m) { ENTER("%p", m); *o = (CUmodule)m; RET(R); }
CUresult cuLibraryGetGlobal(CUdeviceptr *p, size_t *n, CUlibrary m, const char *s) { ENTER("%p,%s", m, s); CTX(); RET(getgl(p, n, (Mod *)m, s)); }
CUresult cuLibraryGetKernelCount(unsigned *n, CUlibrary m) { ENTER("%p", m); *n = ((Mod *)m)->nk; RET(R); }
CUresult cuKernelGetFunction(CUfunction *f, CUkernel k) { ENTER("%p", k); *f = (CUfunction)k; RET(R); }
CUresult cuKernelGetLibrary(CUlibrary *l, CUkernel k) { ENTER("%p", k); *l = (CUlibrary)((Fn *)k)->m; RET(R); }
CUresult cuKernelGetName(const char **n, CUkernel k) { ENTER("%p", k); *n = ((Fn *)k)->name; RET(R); }
CUresult cuFuncGetName(const char **n, CUfunction k) { ENTER("%p", k); *n = ((Fn *)k)->name; RET(R); }
CUresult cuFuncGetModule(CUmodule *m, CUfunction f) { ENTER("%p", f); *m = (CUmodule)((Fn *)f)->m; RET(R); }
static int fattr(Fn *f, int a) { switch (a) { case 0: return 1024; case 4: return 64; case 5: case 6: return cc; case 8: return f->shmax ? f->shmax : 49152; case 9: return f->carve; default: return 0; } }
CUresult cuFuncGetAttribute(int *v, CUfunction_attribute a, CUfunction f) { ENTER("%d,%p", a, f); *v = fattr((Fn *)f, a); RET(R); }
CUresult cuFuncSetAttribute(CUfunction f, CUfunction_attribute a, int v) { ENTER("%p,%d,%d", f, a, v); if (a == 8) ((Fn *)f)->shmax = v; RET(R); }
CUresult cuFuncSetCacheConfig(CUfunction f, CUfunc_cache c) { ENTER("%p", f); RET(R); }
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
CUresult cuFuncSetBlockShape(CUfunction f, int x, int y, int z) { ENTER("%p,%d,%d,%d", f, x, y, z); if (x < 1 || y < 1 || z < 1 || (u64)x * y * z > 1024 || z > 64) RET(CUDA_ERROR_INVALID_VALUE); RET(R); }
CUresult cuFuncSetSharedSize(CUfunction f, unsigned n) { ENTER("%p,%u", f, n); RET(R); }
CUresult cuFuncIsLoaded(CUfunctionLoadingState *s, CUfunction f) { ENTER("%p", f); *s = CU_FUNCTION_LOADING_STATE_LOADED; RET(R); }
CUresult cuFuncLoad(CUfunction f) { ENTER("%p", f); RET(R); }
CUresult cuKernelGetAttribute(int *v, CUfunction_attribute a, CUkernel k, CUdevice d) { ENTER("%d,%p", a, k); *v = fattr((Fn *)k, a); RET(R); }
CUresult cuKernelSetAttribute(CUfunction_attribute a, int v, CUkernel k, CUdevice d) { ENTER("%p,%d,%d", k, a, v); if (a == 8) ((Fn *)k)->shmax = v; RET(R); }
CUresult cuKernelSetCacheConfig(CUkernel k, CUfunc_cache c, CUdevice d) { ENTER("%p", k); RET(R); }
CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *n, CUfunction f, int b, size_t s) { ENTER(); *n = 1; RET(R); }
CUresult cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *n, CUfunction f, int b, size_t s, unsigned fl) { ENTER(); *n = 1; RET(R); }
CUresult cuOccupancyAvailableDynamicSMemPerBlock(size_t *n, CUfunction f, int nb, int b) { ENTER(); *n = 49152; RET(R); }
/* A launch does nothing; with a flat parameter block (CU_LAUNCH_PARAM_BUFFER_POINTER) device pointers in it are checked for life. */
static CUresult launch(CUfunction hf, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned sh, CUstream s, void **kp, void **ex) {
  Fn *f = (Fn *)hf; if (!f || f->magic != M_FUNC || f->m->magic != M_MOD) { fault("launch of an unloaded function"); return CUDA_ERROR_INVALID_HANDLE; }
  if (!gx || !gy || !gz || !bx || !by || !bz || (u64)bx * by * bz > 1024 || bz > 64 || gy > 65535 || gz > 65535) { fault("launch of %s: bad grid %ux%ux%u block %ux%ux%u", f->name, gx, gy, gz, bx, by, bz); return CUDA_ERROR_INVALID_VALUE; }
  if (sh > 49152 && (int)sh > f->shmax) { fault("launch of %s: %u bytes of dynamic shared memory without opting in", f->name, sh); return CUDA_ERROR_INVALID_VALUE; }
  lg("   KERNEL %s grid %u,%u,%u block %u,%u,%u smem %u stream %p (not executed)\n", f->name, gx, gy, gz, bx, by, bz, sh, s);
  Op o = {.kind = O_KERN, .mod = f};
  if (ptrcheck && ex) { u8 *b = 0; size_t n = 0; for (void **e = ex; *e != CU_LAUNCH_PARAM_END; e += 2) { if (*e == CU_LAUNCH_PARAM_BUFFER_POINTER) b = e[1]; else if (*e == CU_LAUNCH_PARAM_BUFFER_SIZE) n = *(size_t *)e[1]; }
    if (b && f->pbytes >= 0 && n < (size_t)f->pbytes) { fault("launch of %s: %zu parameter bytes given, the kernel takes %d", f->name, n, f->pbytes); return CUDA_ERROR_INVALID_VALUE; }
    for (size_t i = 0; b && i + 8 <= n; i += 8) { u64 p; memcpy(&p, b + i, 8); if (is_dev(p)) { o.ptrs = realloc(o.ptrs, (o.np + 1) * sizeof *o.ptrs); o.ptrs[o.np++] = p; Al *a = find(p); lg("     param +%zu = %#lx (%s%lu of %lu)\n", i, (long)p, a && a->live && p < a->p + a->n ? "+" : "BAD ", a ? (long)(p - a->p) : 0, a ? (long)a->n : 0); } } }
  return push(s, o);
}
CUresult cuLaunchKernel(CUfunction f, unsigned a, unsigned b, unsigned c, unsigned d, unsigned e, unsigned g, unsigned sh, CUstream s, void **kp, void **ex) { ENTER("%p", f); CTX(); RET(launch(f, a, b, c, d, e, g, sh, s, kp, ex)); }
CUresult cuLaunchKernelEx(const CUlaunchConfig *c, CUfunction f, void **kp, void **ex) { ENTER("%p", f); CTX(); RET(launch(f, c->gridDimX, c->gridDimY, c->gridDimZ, c->blockDimX, c->blockDimY, c->blockDimZ, c->sharedMemBytes, c->hStream, kp, ex)); }
CUresult cuLaunchCooperativeKernel(CUfunction f, unsigned a, unsigned b, unsigned c, unsigned d, unsigned e, unsigned g, unsigned sh, CUstream s, void **kp) { ENTER("%p", f); CTX(); RET(launch(f, a, b, c, d, e, g, sh, s, kp, 0)); }

/* ------------------------------------------------------------------ entry lookup */
extern const struct { const char *base, *sym; int ver; void *fn; } sim_table[];
static void *lookup(const char *n, int ver) { void *best = 0; int bv = -1; for (int i = 0; sim_table[i].base; i++) if (!strcmp(sim_table[i].base, n) && sim_table[i].ver <= ver && sim_table[i].ver >= bv) { best = sim_table[i].fn; bv = sim_table[i].ver; } if (!best) for (int i = 0; sim_table[i].base; i++) if (!strcmp(sim_table[i].sym, n)) best = sim_table[i].fn; return best; }
#undef cuGetProcAddress
CUresult cuGetProcAddress_v2(const char *n, void **p, int ver, cuuint64_t fl, CUdriverProcAddressQueryResult *st) { ENTER("%s,%d", n, ver); *p = lookup(n, ver); if (!*p) lg("   -> no such entry %s\n", n); if (st) *st = *p ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND; RET(*p ? R : CUDA_ERROR_NOT_FOUND); }
CUresult cuGetProcAddress(const char *n, void **p, int ver, cuuint64_t fl) { ENTER("%s,%d", n, ver); *p = lookup(n, ver); RET(*p ? R : CUDA_ERROR_NOT_FOUND); }
/* NVIDIA's private tables are not offered. The CUDA runtime (static or shared) needs several of them and, in
 * d4082055-..., asks the driver to answer a challenge (runtime version, time) that shows it is NVIDIA's own:
 * an authentication mechanism, which this simulator does not imitate. Clients of the public driver API only. */
CUresult cuGetExportTable(const void **t, const CUuuid *u) {
  const u8 *b = (const u8 *)u->bytes;
  ENTER("%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
  if (t) *t = 0;
  RET(CUDA_ERROR_NOT_FOUND);
}
/* Not of CUDA: where the bytes [p, p+n) of device memory lie on the host, for a test's stand-in of a kernel; 0 is a fault. */
void *cusim_host_address(CUdeviceptr p, size_t n, const char *what) { pthread_mutex_lock(&mu); void *h = d_chk(p, n, what) ? 0 : H(p); pthread_mutex_unlock(&mu); return h; }
CUresult cuProfilerStart(void) { ENTER(); RET(R); }
CUresult cuProfilerStop(void) { ENTER(); RET(R); }
static __attribute__((constructor)) void ctor(void) { st_null.magic = st_ptds.magic = M_STREAM; st_null.builtin = st_ptds.builtin = 1; st_null.id = 1; st_ptds.id = 2; }
static void at_exit(void) {
  int live = 0, pin = 0, ns = 0, ne = 0; u64 bytes = 0;
  for (int i = 0; i < nal; i++) if (al[i].live && !al[i].internal) { live++; bytes += al[i].n; }
  for (int i = 0; i < nhm; i++) pin += hm[i].live;
  for (St *s = streams; s; s = s->next) ns += s->magic == M_STREAM;
  for (Ev *e = events; e; e = e->next) ne += e->magic == M_EVENT;
  int ng = 0; for (Gr *g = graphs; g; g = g->next) ng += g->magic != M_DEAD;
  FILE *o = report_path ? fopen(report_path, "w") : logf_;
  if (o) fprintf(o, "cudasim report: faults %d, live device blocks %d (%lu bytes), peak %lu bytes, live pinned blocks %d, live streams %d, live events %d, live graphs %d, retained contexts %d\n", nfault, live, (long)bytes, (long)mem_peak, pin, ns, ne, ng, primary && primary->magic == M_CTX ? primary->refs : 0);
  if (o && report_path) fclose(o);
  if (counts_path && (o = fopen(counts_path, "w"))) { for (int i = 0; i < ncnt; i++) fprintf(o, "%ld %s\n", cnt[i].c, cnt[i].n); fclose(o); }
}
