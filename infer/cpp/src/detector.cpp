#include <algorithm>
#include <cmath>

#include "classifier.hpp"
#include "detections.hpp"
#include "feed.hpp"
#include "regions.hpp"
#include "self_test.hpp"

namespace verydeep {
namespace {

constexpr const char* kBackground = "background";  // the last class of a net of regions

void check_regions(const ModelSpec& spec) {
  if (spec.task == "classify" && spec.classes.back() == kBackground) return;
  throw Error(ErrorCode::unusable_engine, spec.name + ": its last class is '" + spec.classes.back() + "', expected '" +
                                              kBackground +
                                              "': a net of regions, of a recipe like googlenet-det (docs/detection.md)");
}

}  // namespace

struct Detector::Impl {
  Classifier classifier;
  std::unique_ptr<Backend> multibox;

  // Both nets are used by one call at a time.
  std::unique_lock<std::mutex> lock() { return std::unique_lock<std::mutex>(classifier.impl_->busy); }

  std::vector<Rectangle> propose(const Pixels& image) {
    if (!multibox)
      throw Error(ErrorCode::invalid_argument, "nothing proposes regions: expected a MultiBox net, or proposals");
    const ModelSpec& spec = multibox->spec();
    const Size size{image.height, image.width};
    Source picture(make_picture(image, spec), spec);
    std::vector<Rectangle> found;
    for_each_call(*multibox, picture, plan_whole(size, spec), [&](const Feed& feed, const std::vector<std::size_t>&) {
      found = found_boxes(multibox->run_map(feed, "boxes"), size);
    });
    return found;
  }

  std::vector<Detected> detect(const Pixels& image, const std::vector<Rectangle>& proposals, double least) {
    Backend& backend = *classifier.impl_->backend;
    const ModelSpec& spec = backend.spec();
    const Size size{image.height, image.width};
    std::vector<Rectangle> boxes;
    for (const Rectangle& box : proposals)
      if (lies_in(box, size)) boxes.push_back(box);
    if (boxes.empty()) return {};

    const std::size_t classes = spec.classes.size();
    std::vector<float> posterior(boxes.size() * classes);
    Source picture(make_picture(image, spec), spec);
    for_each_call(backend, picture, plan_regions(boxes, size, spec),
                  [&](const Feed& feed, const std::vector<std::size_t>& places) {
                    const Answer answer = backend.run(feed, false);
                    for (std::size_t i = 0; i < places.size(); ++i)
                      std::copy_n(&answer.posterior[i * classes], classes, &posterior[places[i] * classes]);
                  });
    if (!std::all_of(posterior.begin(), posterior.end(), [](float value) { return std::isfinite(value); }))
      throw Error(ErrorCode::runtime_failure, spec.name + ": the model's answer is not finite (NaN or infinite)");

    std::vector<Detected> found;
    for (const Kept& one : find_objects(posterior, boxes, static_cast<int>(classes), least)) {
      const Rectangle& box = boxes[one.region];
      const auto rounded = [](double edge) { return static_cast<double>(static_cast<float>(edge)); };  // as Python's
      found.push_back({prediction(spec, one.label, static_cast<double>(one.score)),
                       {rounded(box.xmin), rounded(box.ymin), rounded(box.xmax), rounded(box.ymax)}});
    }
    return found;
  }
};

Detector::Detector(const std::string& engine_path, const std::string& multibox_path, const Options& options) {
  if (options.protocol != Options{}.protocol || !options.scales.empty())
    throw Error(ErrorCode::invalid_argument, "objects are found in regions: leave protocol and scales out");
  impl_ = std::make_unique<Impl>(Impl{Classifier(engine_path, options), nullptr});
  check_regions(classifier().impl_->backend->spec());
  if (multibox_path.empty()) return;

  impl_->multibox = open_backend(multibox_path, options);
  require_output(impl_->multibox->spec(), "boxes");
  if (options.self_test) check_self_test(*impl_->multibox);
}

Detector::~Detector() = default;
Detector::Detector(Detector&&) noexcept = default;
Detector& Detector::operator=(Detector&&) noexcept = default;

std::vector<Rectangle> Detector::propose(const Image& image) {
  const auto lock = impl_->lock();
  return impl_->propose(copy_of(image));
}

std::vector<Detected> Detector::detect(const Image& image, double least) {
  const Pixels pixels = copy_of(image);
  const auto lock = impl_->lock();
  return impl_->detect(pixels, impl_->propose(pixels), least);
}

std::vector<Detected> Detector::detect_in(const Image& image, const std::vector<Rectangle>& proposals, double least) {
  const Pixels pixels = copy_of(image);
  const auto lock = impl_->lock();
  return impl_->detect(pixels, proposals, least);
}

std::vector<Detected> Detector::detect_file(const std::string& path, double least) {
  const DecodedImage image = decode_file(path, classifier().impl_->backend->spec().preprocessing.apply_exif);
  return detect(image.view(), least);
}

std::vector<Detected> Detector::detect_file_in(const std::string& path, const std::vector<Rectangle>& proposals,
                                               double least) {
  const DecodedImage image = decode_file(path, classifier().impl_->backend->spec().preprocessing.apply_exif);
  return detect_in(image.view(), proposals, least);
}

const Classifier& Detector::classifier() const noexcept { return impl_->classifier; }

std::string Detector::multibox_arithmetic() const { return impl_->multibox ? impl_->multibox->arithmetic() : ""; }

}  // namespace verydeep
