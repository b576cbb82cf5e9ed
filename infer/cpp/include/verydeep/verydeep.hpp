// verydeep: VGG and GoogLeNet engines in C++, by the protocols of their papers.
//
// An engine is a model.onnx that export.to_onnx wrote (ONNX Runtime) or a model.engine of export.to_trt (TensorRT,
// where this library was built with it; its sidecar model.engine.json must lie beside it). Which classes, scales and
// preprocessing it wants is written in it.
//
//     verydeep::Classifier classifier("model.onnx");
//     for (const auto& best : classifier.classify({pixels, height, width, 3 * width}))
//       std::printf("%s %.3f\n", best.name.c_str(), best.probability);
//
// Ownership: pixels stay the caller's and are read during the call only; everything returned is a value.
// Threads: different classifiers may be used at once. One classifier serves one call at a time; calls of several
// threads on the same classifier wait for each other.
// Failure: every function throws verydeep::Error and nothing else but std::bad_alloc; the classifier stays usable.
// C programs, and programs without exceptions: verydeep.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "export.h"

namespace verydeep {

enum class ErrorCode {
  invalid_argument = 1,  // what the caller passed cannot be: null pixels, an unknown protocol, a scale below the crop
  unreadable_image = 2,  // a file that is no image we decode, or is damaged
  unusable_engine = 3,   // a file that is no engine, a plan of another GPU or version, a runtime that does not load
  out_of_range = 4,      // the image needs views beyond the engine's shapes
  runtime_failure = 5,   // the runtime itself failed
};

// what() is one line: what was got, what was expected, what to do.
class VERYDEEP_API Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

enum class Order { rgb, bgr };

// A decoded image: 8 bits a channel, three channels interleaved, rows `row_stride` bytes apart (at least 3 * width).
struct Image {
  const std::uint8_t* pixels = nullptr;
  int height = 0;  // px
  int width = 0;   // px
  std::ptrdiff_t row_stride = 0;
  Order order = Order::rgb;
};

struct Options {
  std::string protocol = "center";  // center, ten-crop, dense, multicrop, multicrop+dense, googlenet-144
  std::vector<int> scales;          // shorter sides in px; empty: the model's own for the protocol
  int device = 0;                   // ordinal of the GPU, where one is used
  bool cuda = false;                // .onnx by ONNX Runtime's CUDA provider
  int threads = 0;                  // of ONNX Runtime on a CPU; 0: as many as cores
  bool self_test = false;           // prove pixels and posteriors on this machine before anything else
};

// Classifier::arithmetic of an FP16 model on a CPU, where ONNX Runtime keeps activations in FP32 and there is no check
// graph beside it (python -m export.to_check): a GPU answers otherwise.
constexpr const char* kUnrounded = "fp16 weights, fp32 arithmetic";
// The same of an INT8 model that export.to_onnx quantised: what of it stays in half is not rounded.
constexpr const char* kInt8InFp32 = "int8 + fp32";

struct Prediction {
  int index = 0;             // in the order of the model's classes
  std::string wnid;          // the model's own name of the class
  std::string name;          // in words, where the model has them
  double probability = 0.0;  // posterior, averaged over all views of the protocol
};

class VERYDEEP_API Classifier {
 public:
  explicit Classifier(const std::string& engine_path, const Options& options = {});
  ~Classifier();
  Classifier(Classifier&&) noexcept;
  Classifier& operator=(Classifier&&) noexcept;

  // Posterior of every class, in the order of classes(); sums to 1.
  std::vector<double> posterior(const Image& image);
  // The `top` likeliest classes, likeliest first; of equal ones the lower index first.
  std::vector<Prediction> classify(const Image& image, int top = 5);
  // The same for an encoded image (JPEG or PNG), rotated by EXIF or not as the model's preprocessing says.
  // Only where the library was built with VERYDEEP_DECODE.
  std::vector<Prediction> classify_file(const std::string& path, int top = 5);

  const std::string& model() const noexcept;
  const std::string& protocol() const noexcept;
  const std::vector<std::string>& classes() const noexcept;      // WNIDs or names
  const std::vector<std::string>& class_names() const noexcept;  // in words; the same where the model has none
  const std::vector<int>& scales() const noexcept;
  const std::string& runtime() const noexcept;  // as in the names of score files: "onnxruntime-fp32"
  // What the answers are computed in: "fp32", "fp16", "int8"; on a CPU "fp16, rounded by model.check.onnx" and "int8 +
  // fp16, rounded by model.check.onnx" (the check graph beside an FP16 or INT8 model), kUnrounded or kInt8InFp32.
  const std::string& arithmetic() const noexcept;

 private:
  friend class Detector;
  friend class Localizer;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// A box in pixels counted from 1, both ends included, as ILSVRC has them.
struct Rectangle {
  double xmin = 0, ymin = 0, xmax = 0, ymax = 0;
};

struct Located {
  Prediction what;
  bool found = false;  // whether a box net had a box of it
  Rectangle where;
};

// A classifier with box nets (VGG, appendix A): what is in an image, by dense views, and where. The boxes of all
// windows are merged and rated by the classifier, which must have been exported with --outputs posterior,score_map.
class VERYDEEP_API Localizer {
 public:
  // options.protocol must be "dense"; options.scales, where given, are those of the classifier and of every box net.
  Localizer(const std::string& engine_path, const std::vector<std::string>& box_engine_paths, const Options& options);
  ~Localizer();
  Localizer(Localizer&&) noexcept;
  Localizer& operator=(Localizer&&) noexcept;

  std::vector<Located> locate(const Image& image, int top = 5);
  std::vector<Located> locate_file(const std::string& path, int top = 5);  // where built with VERYDEEP_DECODE
  const Classifier& classifier() const noexcept;
  std::vector<std::string> box_arithmetic() const;  // of each box net, as Classifier::arithmetic

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// An object in an image: what.probability is the posterior of its region.
struct Detected {
  Prediction what;
  Rectangle where;
};

// A net of regions, whose last class is `background`, and a MultiBox net that proposes the regions (GoogLeNet, section
// 8): the objects of an image. Each region is warped to the net's crop with context around it; of two objects of a class
// that share more than 0.3 (intersection over union) the less sure one goes; at most 300 are left, the surest first.
// At least 0.001 is what measurements take, 0.5 what is shown.
class VERYDEEP_API Detector {
 public:
  // multibox_path: "" where the caller has proposals of its own. options.protocol and options.scales are left as they
  // are by default: regions have neither.
  Detector(const std::string& engine_path, const std::string& multibox_path, const Options& options = {});
  ~Detector();
  Detector(Detector&&) noexcept;
  Detector& operator=(Detector&&) noexcept;

  // At most 200 boxes that may hold an object, the surest first. Throws invalid_argument without a MultiBox net.
  std::vector<Rectangle> propose(const Image& image);
  // The objects with a posterior of `least` or more, in the regions that the MultiBox net proposes.
  std::vector<Detected> detect(const Image& image, double least = 0.5);
  std::vector<Detected> detect_file(const std::string& path, double least = 0.5);  // where built with VERYDEEP_DECODE
  // The same in the caller's proposals; those without a part in the image, or that are no boxes, are passed over.
  std::vector<Detected> detect_in(const Image& image, const std::vector<Rectangle>& proposals, double least = 0.5);
  std::vector<Detected> detect_file_in(const std::string& path, const std::vector<Rectangle>& proposals,
                                       double least = 0.5);
  const Classifier& classifier() const noexcept;
  std::string multibox_arithmetic() const;  // as Classifier::arithmetic; "" without a MultiBox net

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// A decoded file, RGB without padding. Only where the library was built with VERYDEEP_DECODE.
struct DecodedImage {
  std::vector<std::uint8_t> pixels;
  int height = 0;
  int width = 0;
  Image view() const { return {pixels.data(), height, width, static_cast<std::ptrdiff_t>(3) * width, Order::rgb}; }
};
VERYDEEP_API DecodedImage decode(const void* data, std::size_t size, bool apply_exif = false);
VERYDEEP_API DecodedImage decode_file(const std::string& path, bool apply_exif = false);

VERYDEEP_API const char* version() noexcept;

}  // namespace verydeep
