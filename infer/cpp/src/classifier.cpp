#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "classifier.hpp"
#include "feed.hpp"
#include "self_test.hpp"
#include "verydeep/verydeep.hpp"

namespace verydeep {
namespace {

constexpr int kLargestSide = 1 << 20;  // px
constexpr std::int64_t kLargestPixels = 100'000'000;

}  // namespace

Pixels copy_of(const Image& image) {
  if (!image.pixels) throw Error(ErrorCode::invalid_argument, "null pixels: expected an image");
  if (image.height <= 0 || image.width <= 0 || image.height > kLargestSide || image.width > kLargestSide ||
      static_cast<std::int64_t>(image.height) * image.width > kLargestPixels)
    throw Error(ErrorCode::invalid_argument, "an image of " + std::to_string(image.height) + "x" +
                                                 std::to_string(image.width) +
                                                 " px: expected 1 to 100,000,000 pixels");
  const std::ptrdiff_t row = static_cast<std::ptrdiff_t>(3) * image.width;
  if (image.row_stride < row)
    throw Error(ErrorCode::invalid_argument, "a row stride of " + std::to_string(image.row_stride) +
                                                 " bytes: expected at least 3 * width = " + std::to_string(row));
  Pixels pixels{image.height, image.width, std::vector<std::uint8_t>(static_cast<std::size_t>(row) * image.height)};
  for (int y = 0; y < image.height; ++y) {
    const std::uint8_t* from = image.pixels + y * image.row_stride;
    std::uint8_t* to = pixels.at(y, 0);
    std::memcpy(to, from, static_cast<std::size_t>(row));
    if (image.order == Order::bgr)
      for (int x = 0; x < image.width; ++x) std::swap(to[3 * x], to[3 * x + 2]);
  }
  return pixels;
}

Prediction prediction(const ModelSpec& spec, int index, double probability) {
  const auto& names = spec.class_names.empty() ? spec.classes : spec.class_names;
  return {index, spec.classes[index], names[index], probability};
}

std::vector<double> Classifier::Impl::posterior(Pixels pixels) {
  const std::lock_guard<std::mutex> lock(busy);
  const ModelSpec& spec = backend->spec();
  const Size size{pixels.height, pixels.width};
  const std::vector<View> plan = plan_views(spec, options.protocol, size, scales);
  if (const auto reason = out_of_range(plan, size, backend->shapes(), spec))
    throw Error(ErrorCode::out_of_range, *reason);
  Source source(std::move(pixels), spec);
  const std::size_t classes = spec.classes.size();
  std::vector<double> mean(classes, 0.0);
  for_each_call(*backend, source, plan, [&](const Feed& feed, const std::vector<std::size_t>& places) {
    const Answer answer = backend->run(feed, false);
    for (std::size_t i = 0; i < places.size(); ++i)
      for (std::size_t c = 0; c < classes; ++c)
        mean[c] += plan[places[i]].weight * static_cast<double>(answer.posterior[i * classes + c]);
  });
  if (!std::all_of(mean.begin(), mean.end(), [](double value) { return std::isfinite(value); }))
    throw Error(ErrorCode::runtime_failure, spec.name + ": the model's answer is not finite (NaN or infinite)");
  return mean;
}

std::vector<Prediction> Classifier::Impl::best(const std::vector<double>& mean, int top) const {
  if (top < 1) throw Error(ErrorCode::invalid_argument, "top " + std::to_string(top) + ": expected 1 or more");
  const ModelSpec& spec = backend->spec();
  std::vector<int> order(mean.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return mean[a] > mean[b]; });
  order.resize(std::min(order.size(), static_cast<std::size_t>(top)));
  std::vector<Prediction> found;
  for (int i : order) found.push_back(prediction(spec, i, mean[i]));
  return found;
}

Classifier::Classifier(const std::string& engine_path, const Options& options) : impl_(std::make_unique<Impl>()) {
  impl_->backend = open_backend(engine_path, options);
  impl_->options = options;
  const ModelSpec& spec = impl_->backend->spec();
  if (spec.task == "multibox")
    throw Error(ErrorCode::unusable_engine, engine_path + ": " + spec.name +
                                                " is a MultiBox net, which has no posterior: give it as --multibox beside a net of regions");
  if (spec.task != "classify")
    throw Error(ErrorCode::unusable_engine, engine_path + ": " + spec.name +
                                                " is a box net, which has no posterior: give it as --box-engine beside a classifier");
  impl_->scales = options.scales.empty() ? default_scales(spec, options.protocol) : options.scales;
  plan_views(spec, options.protocol, {impl_->scales.at(0), impl_->scales[0]}, impl_->scales);  // refuses what cannot be
  if (options.self_test) check_self_test(*impl_->backend);
}

Classifier::~Classifier() = default;
Classifier::Classifier(Classifier&&) noexcept = default;
Classifier& Classifier::operator=(Classifier&&) noexcept = default;

std::vector<double> Classifier::posterior(const Image& image) { return impl_->posterior(copy_of(image)); }

std::vector<Prediction> Classifier::classify(const Image& image, int top) {
  return impl_->best(impl_->posterior(copy_of(image)), top);
}

std::vector<Prediction> Classifier::classify_file(const std::string& path, int top) {
  const DecodedImage image = decode_file(path, impl_->backend->spec().preprocessing.apply_exif);
  return classify(image.view(), top);
}

const std::string& Classifier::model() const noexcept { return impl_->backend->spec().name; }
const std::string& Classifier::protocol() const noexcept { return impl_->options.protocol; }
const std::vector<std::string>& Classifier::classes() const noexcept { return impl_->backend->spec().classes; }
const std::vector<std::string>& Classifier::class_names() const noexcept {
  const ModelSpec& spec = impl_->backend->spec();
  return spec.class_names.empty() ? spec.classes : spec.class_names;
}
const std::vector<int>& Classifier::scales() const noexcept { return impl_->scales; }
const std::string& Classifier::runtime() const noexcept { return impl_->backend->runtime(); }
const std::string& Classifier::arithmetic() const noexcept { return impl_->backend->arithmetic(); }

const char* version() noexcept { return VERYDEEP_VERSION; }

}  // namespace verydeep
