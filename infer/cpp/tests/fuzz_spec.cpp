// libFuzzer: what a damaged model's metadata say of it. The bytes are a spec, a NUL and the expectations of the
// self-test. A spec that is accepted can be planned with. tests/fuzz.sh builds and runs it.
#include <cstdlib>
#include <cstring>

#include "backend.hpp"
#include "regions.hpp"
#include "self_test.hpp"

namespace {

using namespace verydeep;

constexpr int kLargestCropPx = 64;  // with which we render the self-test's images: others only take longer

// Answers at once: every class is as likely, every sum of pixels 0.
class Instant final : public Backend {
 public:
  Instant(ModelSpec spec, std::string self_test)
      : spec_(std::move(spec)), shapes_(default_shapes(spec_, 0)), self_test_(std::move(self_test)) {}
  const ModelSpec& spec() const override { return spec_; }
  const std::vector<ShapeRange>& shapes() const override { return shapes_; }
  const std::string& runtime() const override { return runtime_; }
  const std::string& arithmetic() const override { return spec_.precision; }
  const std::string& self_test() const override { return self_test_; }
  bool rescales(Size, Size, Size) const override { return true; }
  std::size_t views_per_call(Size) const override { return 16; }
  Answer run(const Feed& feed, bool) override {
    const std::size_t views = static_cast<std::size_t>(feed.views), classes = spec_.classes.size();
    return {std::vector<float>(views * classes, 1.0f / static_cast<float>(classes)),
            std::vector<std::int32_t>(6 * views, 0)};
  }
  Map run_map(const Feed&, const std::string&) override { return {1, 1, 1, {0.0f}}; }

 private:
  ModelSpec spec_;
  std::vector<ShapeRange> shapes_;
  std::string runtime_ = "instant", self_test_;
};

void plan(const ModelSpec& spec) {
  const auto shapes = default_shapes(spec, 0);
  for (const std::string& protocol : protocols())
    for (const Size size : {Size{8, 100'000}, Size{375, 500}, Size{1 << 20, 1}}) {
      const auto views = plan_views(spec, protocol, size, default_scales(spec, protocol));
      double total = 0;
      for (const View& view : views) total += view.weight;
      if (!(total > 0.999 && total < 1.001)) std::abort();
      const auto reason = out_of_range(views, size, shapes, spec);
      if (reason && reason->empty()) std::abort();
    }
  for (const Size size : {Size{1, 1}, Size{375, 500}, Size{1 << 20, 1}}) {
    const Size picture = picture_px(size, spec);
    const Rectangle whole{1, 1, static_cast<double>(size.width), static_cast<double>(size.height)};
    for (const View& view : plan_regions({whole, {-9, -9, 1, 1}}, size, spec)) {
      const auto& [top, left, height, width] = view.box;
      if (top < 0 || left < 0 || height < 1 || width < 1) std::abort();
      if (top + height > picture.height || left + width > picture.width) std::abort();
      const Size to = view.resized_px();
      if (to.height < 1 || to.width < 1 || to.height > spec.crop_px || to.width > spec.crop_px) std::abort();
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string both(reinterpret_cast<const char*>(data), size);
  const std::size_t middle = std::min(both.find('\0'), both.size());
  try {
    const ModelSpec spec = parse_spec(both.substr(0, middle));
    plan(spec);
    if (spec.crop_px > kLargestCropPx || middle == both.size()) return 0;
    Instant backend(spec, both.substr(middle + 1));
    check_self_test(backend);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::out_of_range || error.code() == ErrorCode::runtime_failure) std::abort();
    if (!*error.what() || std::strchr(error.what(), '\n')) std::abort();
  }
  return 0;
}
