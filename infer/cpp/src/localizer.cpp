#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "boxes.hpp"
#include "classifier.hpp"
#include "feed.hpp"

namespace verydeep {
namespace {

struct BoxNet {
  std::unique_ptr<Backend> backend;
  std::vector<int> scales;
};

// The unmirrored dense view of each scale.
std::vector<View> dense_views(const ModelSpec& spec, Size image, const std::vector<int>& scales) {
  std::vector<View> views = plan_views(spec, "dense", image, scales);
  views.erase(std::remove_if(views.begin(), views.end(), [](const View& view) { return view.mirrored; }), views.end());
  return views;
}

Map map_of(Backend& backend, Source& source, const View& view, const std::string& output) {
  Map map;
  for_each_call(backend, source, {view},
                [&](const Feed& feed, const std::vector<std::size_t>&) { map = backend.run_map(feed, output); });
  return map;
}

void refuse(const std::string& why) { throw Error(ErrorCode::unusable_engine, why); }

// Raises Error unless a classifier and a box net know the same classes by the same windows.
void check_together(const ModelSpec& one, const ModelSpec& other) {
  if (one.classes != other.classes)
    refuse(one.name + " and " + other.name + " have different classes: use nets of the same data");
  if (one.crop_px != other.crop_px || one.stride_px != other.stride_px ||
      one.preprocessing.long_side_down != other.preprocessing.long_side_down ||
      one.preprocessing.apply_exif != other.preprocessing.apply_exif)
    refuse(one.name + " and " + other.name + " have other windows (crop_px, stride_px, rounding or EXIF), so boxes cannot be rated");
}

}  // namespace

struct Localizer::Impl {
  Classifier classifier;
  std::vector<BoxNet> nets;

  std::vector<Located> locate(const Image& given, int top) {
    Classifier::Impl& rater = *classifier.impl_;
    const Pixels pixels = copy_of(given);
    const Size image{pixels.height, pixels.width};
    std::vector<Located> found;
    for (const Prediction& each : rater.best(rater.posterior(pixels), top)) found.push_back({each, false, {}});
    const std::lock_guard<std::mutex> lock(rater.busy);
    std::set<int> scales;
    for (const BoxNet& net : nets) {
      const auto views = plan_views(net.backend->spec(), "dense", image, net.scales);
      if (const auto reason = out_of_range(views, image, net.backend->shapes(), net.backend->spec()))
        throw Error(ErrorCode::out_of_range, *reason);
      scales.insert(net.scales.begin(), net.scales.end());
    }
    const ModelSpec& rules = rater.backend->spec();
    const std::vector<View> rated = dense_views(rules, image, {scales.begin(), scales.end()});
    if (const auto reason = out_of_range(rated, image, rater.backend->shapes(), rules))
      throw Error(ErrorCode::out_of_range, *reason);
    Source source(pixels, rules);
    std::map<int, Map> score_maps;
    for (const View& view : rated) score_maps[view.short_side_px] = map_of(*rater.backend, source, view, "score_map");

    std::vector<std::vector<std::vector<Edges>>> boxes;  // of each net and scale: [1 or classes][windows]
    std::vector<std::vector<double>> posterior;          // [windows of all][classes]
    for (const BoxNet& net : nets) {
      const ModelSpec& spec = net.backend->spec();
      Source own(pixels, spec);
      for (const View& view : dense_views(spec, image, net.scales)) {
        const Map map = map_of(*net.backend, own, view, "box_map"), &scores = score_maps.at(view.short_side_px);
        const int channels = spec.task == "box-pcr" ? 4 * static_cast<int>(spec.classes.size()) : 4;
        if (map.channels != channels || map.height != scores.height || map.width != scores.width)
          refuse(spec.name + ": its box_map does not fit " + rules.name + "'s score_map: boxes cannot be rated");
        boxes.push_back(window_boxes(map, view, image, spec));
        const auto windows = posterior_of(scores);
        posterior.insert(posterior.end(), windows.begin(), windows.end());
      }
    }
    for (Located& one : found) place(one, boxes, posterior, image);
    return found;
  }

  static void place(Located& one, const std::vector<std::vector<std::vector<Edges>>>& boxes,
                    const std::vector<std::vector<double>>& posterior, Size image) {
    const auto label = static_cast<std::size_t>(one.what.index);
    std::vector<Edges> finite;
    std::vector<std::size_t> windows;
    std::size_t window = 0;
    for (const auto& of_net : boxes)
      for (const Edges& box : of_net[of_net.size() > 1 ? label : 0]) {
        if (std::all_of(box.begin(), box.end(), [](double edge) { return std::isfinite(edge); })) {
          finite.push_back(box);
          windows.push_back(window);
        }
        ++window;
      }
    const Merged merged = merge_boxes(finite);
    double best = -1.0;
    for (std::size_t i = 0; i < merged.boxes.size(); ++i) {
      double score = 0.0;
      for (const std::size_t member : merged.groups[i]) score += posterior[windows[member]][label];
      if (!(score > best)) continue;
      best = score;
      one.found = true;
      one.where = inside(merged.boxes[i], image);
    }
  }
};

Localizer::Localizer(const std::string& engine_path, const std::vector<std::string>& box_engine_paths,
                     const Options& options) {
  if (options.protocol != "dense")
    throw Error(ErrorCode::invalid_argument, "boxes are found in dense views, not by " + options.protocol);
  if (box_engine_paths.empty()) throw Error(ErrorCode::invalid_argument, "no box nets: expected one at least");
  impl_ = std::make_unique<Impl>(Impl{Classifier(engine_path, options), {}});
  const ModelSpec& rules = impl_->classifier.impl_->backend->spec();
  require_output(rules, "score_map");
  for (const std::string& path : box_engine_paths) {
    BoxNet net{open_backend(path, options), {}};
    const ModelSpec& spec = net.backend->spec();
    if (spec.task != "box-scr" && spec.task != "box-pcr") refuse(path + ": " + spec.name + " is no box net: train one (vgg-d-loc-scr), or give it as --engine");
    require_output(spec, "box_map");
    check_together(rules, spec);
    net.scales = options.scales.empty() ? default_scales(spec, "dense") : options.scales;
    plan_views(spec, "dense", {net.scales.at(0), net.scales[0]}, net.scales);
    impl_->nets.push_back(std::move(net));
  }
}

Localizer::~Localizer() = default;
Localizer::Localizer(Localizer&&) noexcept = default;
Localizer& Localizer::operator=(Localizer&&) noexcept = default;

std::vector<Located> Localizer::locate(const Image& image, int top) { return impl_->locate(image, top); }

std::vector<Located> Localizer::locate_file(const std::string& path, int top) {
  const DecodedImage image = decode_file(path, impl_->classifier.impl_->backend->spec().preprocessing.apply_exif);
  return locate(image.view(), top);
}

const Classifier& Localizer::classifier() const noexcept { return impl_->classifier; }

std::vector<std::string> Localizer::box_arithmetic() const {
  std::vector<std::string> found;
  for (const BoxNet& net : impl_->nets) found.push_back(net.backend->arithmetic());
  return found;
}

}  // namespace verydeep
