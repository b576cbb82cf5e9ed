#include "self_test.hpp"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "feed.hpp"

namespace verydeep {
namespace {

constexpr int kImages = 16;

View self_test_view(int number, Size image, const ModelSpec& spec) {
  const int scale = spec.crop_px + (11 * number) % 32, kind = spec.fixed_size ? 0 : number % 3;
  const auto views = plan_views(spec, kind == 0 ? "center" : "dense", image, {scale});
  View view = kind < 2 ? views[0] : views[1];
  view.weight = 1.0;
  return view;
}

}  // namespace

Pixels self_test_image(int number, int crop_px) {
  int height = crop_px + (37 * number) % 64, width = height + 20 + (53 * number) % 60;
  if (number % 4 >= 2) std::swap(height, width);
  Pixels image{height, width, std::vector<std::uint8_t>(static_cast<std::size_t>(3) * height * width)};
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x)
      for (int c = 0; c < 3; ++c) {
        const std::uint64_t mixed = (static_cast<std::uint64_t>(y / 7) * 73'856'093u) ^
                                    (static_cast<std::uint64_t>(x / 7) * 19'349'663u) ^
                                    (static_cast<std::uint64_t>(c) * 83'492'791u) ^
                                    (static_cast<std::uint64_t>(number) * 40'503u + 1u);
        image.at(y, x)[c] = static_cast<std::uint8_t>((mixed * 2'654'435'761u >> 16) & 255u);
      }
  return image;
}

void check_self_test(Backend& backend) {
  const ModelSpec& spec = backend.spec();
  const std::string where = "self-test of " + spec.name + " on " + backend.runtime();
  const auto refuse = [](const std::string& why) { throw Error(ErrorCode::unusable_engine, why); };
  if (backend.self_test().empty()) refuse(spec.name + " carries no self-test: export it again with this version");
  try {
    const auto expected = nlohmann::json::parse(backend.self_test());
    const double tolerance = spec.precision == "fp32" ? 1e-4 : 0.02;
    const std::string right =
        spec.precision == "int8" ? "what this INT8 net answered when it was exported" : "the FP32 net";
    const bool has_sums = spec.has("pixel_sums");  // an engine for apps has none
    double largest = 0.0;
    const auto add = [&](double difference) {  // one that is no number stays the largest
      if (!std::isnan(largest) && !(difference <= largest)) largest = difference;
    };
    for (int number = 0; number < kImages; ++number) {
      Source source(self_test_image(number, spec.crop_px), spec);
      const std::vector<View> plan{self_test_view(number, source.size(), spec)};
      for_each_call(backend, source, plan, [&](const Feed& feed, const std::vector<std::size_t>&) {
        if (spec.task == "multibox") {  // whose boxes show what it saw
          const Map boxes = backend.run_map(feed, "boxes");
          const auto& known = expected.at("mean_box").at(number);
          for (std::size_t i = 0; i < boxes.values.size(); ++i) {
            const double right_value = known.at(i).get<double>();
            add(std::fabs(boxes.values[i] - right_value) / std::max(1.0, std::fabs(right_value)));
          }
          return;
        }
        const Answer answer = backend.run(feed, has_sums);
        if (has_sums && nlohmann::json(answer.pixel_sums) != expected.at("pixel_sums").at(number))
          refuse(where + ": image " + std::to_string(number) + " gave other pixel sums: this runtime sees other pixels");
        const auto& logs = expected.at("log_posterior").at(number);
        for (std::size_t c = 0; c < spec.classes.size(); ++c) {
          add(std::fabs(answer.posterior[c] - std::exp(logs.at(c).get<double>())));
        }
      });
    }
    if (!(largest <= tolerance))
      refuse(where + ": a " + (spec.task == "multibox" ? "box" : "posterior") + " differs by " + std::to_string(largest) + " from " + right + ", expected at most " +
             std::to_string(tolerance) + ": do not use it on this device");
  } catch (const nlohmann::json::exception& error) {
    refuse(where + ": its expectations are damaged (" + error.what() + ")");
  }
}

}  // namespace verydeep
