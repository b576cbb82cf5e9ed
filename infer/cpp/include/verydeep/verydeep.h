/* verydeep for C and everything that calls C: VGG and GoogLeNet engines by the protocols of their papers.
 *
 *     vd_classifier* classifier = NULL;
 *     if (vd_open("model.onnx", NULL, &classifier) != VD_OK) { puts(vd_last_error()); return 1; }
 *     vd_prediction best[5];
 *     size_t count = 5;
 *     if (vd_classify(classifier, pixels, height, width, 3 * width, VD_RGB, best, &count) != VD_OK) ...
 *     vd_close(classifier);
 *
 * Ownership: vd_open makes a classifier, vd_close ends it; strings belong to the classifier and live as long; pixels
 * are the caller's and are read during the call only.
 * Threads: different classifiers may be used at once; calls on the same one wait for each other. vd_last_error is of
 * the calling thread.
 * Failure: every function returns VD_OK or a code, and vd_last_error() is then one line: got, expected, what to do.
 * Nothing is written on failure but `*count` where it says so. */
#ifndef VERYDEEP_H
#define VERYDEEP_H

#include <stddef.h>
#include <stdint.h>

#include "export.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
  VD_OK = 0,
  VD_INVALID_ARGUMENT = 1,
  VD_UNREADABLE_IMAGE = 2,
  VD_UNUSABLE_ENGINE = 3,
  VD_OUT_OF_RANGE = 4,
  VD_RUNTIME_FAILURE = 5,
  VD_OUT_OF_MEMORY = 6
} vd_status;

typedef enum { VD_RGB = 0, VD_BGR = 1 } vd_order;

typedef struct vd_classifier vd_classifier;

typedef struct {
  const char* protocol; /* NULL: "center" */
  const int* scales;    /* shorter sides in px; NULL: the model's own */
  size_t scale_count;
  int device;    /* ordinal of the GPU, where one is used */
  int cuda;      /* not 0: .onnx by ONNX Runtime's CUDA provider */
  int threads;   /* of ONNX Runtime on a CPU; 0: as many as cores */
  int self_test; /* not 0: prove pixels and posteriors on this machine first */
} vd_options;

typedef struct {
  int index;
  const char* wnid;
  const char* name;
  double probability;
} vd_prediction;

/* options: NULL for the defaults. */
VERYDEEP_API vd_status vd_open(const char* engine_path, const vd_options* options, vd_classifier** classifier);
VERYDEEP_API void vd_close(vd_classifier* classifier); /* NULL is nothing */

/* *count: room in `best` before, predictions written after. row_stride: bytes from row to row. order: a vd_order. */
VERYDEEP_API vd_status vd_classify(vd_classifier* classifier, const uint8_t* pixels, int height, int width,
                                   ptrdiff_t row_stride, int order, vd_prediction* best, size_t* count);
VERYDEEP_API vd_status vd_classify_file(vd_classifier* classifier, const char* path, vd_prediction* best,
                                        size_t* count);
/* posterior: room for `class_count` values, in the order of the model's classes. */
VERYDEEP_API vd_status vd_posterior(vd_classifier* classifier, const uint8_t* pixels, int height, int width,
                                    ptrdiff_t row_stride, int order, double* posterior, size_t class_count);

VERYDEEP_API size_t vd_class_count(const vd_classifier* classifier);         /* 0 for NULL */
VERYDEEP_API const char* vd_class(const vd_classifier* classifier, size_t index); /* NULL beyond the last */
VERYDEEP_API const char* vd_model(const vd_classifier* classifier);
/* What the answers are computed in, like "fp32": see verydeep.hpp. */
VERYDEEP_API const char* vd_arithmetic(const vd_classifier* classifier);
VERYDEEP_API const char* vd_last_error(void);
VERYDEEP_API const char* vd_version(void);

#ifdef __cplusplus
}
#endif

#endif
