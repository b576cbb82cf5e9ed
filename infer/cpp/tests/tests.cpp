// The same taps, plans and pixels as Python (golden.json), and what is refused.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cinttypes>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "detections.hpp"
#include "feed.hpp"
#include "files.hpp"
#include "regions.hpp"
#include "self_test.hpp"
#include "taps.hpp"
#include "verydeep/verydeep.hpp"
#include "views.hpp"

namespace verydeep {
namespace {

class Digest {  // FNV-1a of int32 values, little-endian
 public:
  void add(std::int32_t value) {
    for (int shift = 0; shift < 32; shift += 8)
      state_ = (state_ ^ ((static_cast<std::uint32_t>(value) >> shift) & 255u)) * 0x100000001B3u;
  }
  template <typename Values>
  static std::string of(const Values& values) {
    Digest digest;
    for (const auto value : values) digest.add(static_cast<std::int32_t>(value));
    return digest.text();
  }
  std::string text() const {
    char out[17];
    std::snprintf(out, sizeof out, "%016" PRIx64, state_);
    return out;
  }

 private:
  std::uint64_t state_ = 0xCBF29CE484222325u;
};

Filter filter_of(const nlohmann::json& name) { return name == "bicubic" ? Filter::bicubic : Filter::bilinear; }

const nlohmann::json& golden() {
  static const nlohmann::json content = [] {
    std::ifstream file(GOLDEN);
    auto found = nlohmann::json::parse(file);
    if (found.at("magic") != "verydeep golden" || found.at("version") != 1)
      throw std::runtime_error("golden.json is of another version: " + found.at("command").get<std::string>());
    return found;
  }();
  return content;
}

TEST(Golden, Taps) {
  ASSERT_GE(golden()["taps"].size(), 18u);
  for (const auto& row : golden()["taps"]) {
    const Taps axis = make_taps(row[0], row[1], filter_of(row[2]));
    EXPECT_EQ(axis.count, row[3].get<int>()) << row;
    EXPECT_EQ(Digest::of(axis.first), row[4].get<std::string>()) << row;
    EXPECT_EQ(Digest::of(axis.taps), row[5].get<std::string>()) << row;
  }
}

TEST(Golden, RescaledPixels) {
  for (const auto& row : golden()["resized"]) {
    const Pixels image = self_test_image(row[0], 224);
    EXPECT_EQ(Digest::of(resize(image, row[1], row[2], filter_of(row[3])).values), row[4].get<std::string>()) << row;
  }
}

TEST(Golden, Plans) {
  ASSERT_GE(golden()["plans"].size(), 300u);
  for (const auto& row : golden()["plans"]) {
    const ModelSpec spec = parse_spec(golden()["specs"][row[0].get<std::string>()]);
    const Size size{row[2], row[3]};
    const std::vector<int> scales = default_scales(spec, row[1]);
    EXPECT_EQ(scales, row[4].get<std::vector<int>>()) << row;
    const auto plan = plan_views(spec, row[1], size, scales);
    Digest views, weights;
    double total = 0;
    for (const View& view : plan) {
      for (int value : {view.short_side_px, view.box[0], view.box[1], view.box[2], view.box[3], view.resize_px,
                        static_cast<int>(view.mirrored)})
        views.add(value);
      weights.add(static_cast<int>(std::lround(1 / view.weight)));
      total += view.weight;
    }
    EXPECT_EQ(views.text(), row[5].get<std::string>()) << row;
    EXPECT_EQ(weights.text(), row[6].get<std::string>()) << row;
    EXPECT_NEAR(total, 1.0, 1e-12);
    EXPECT_EQ(!out_of_range(plan, size, default_shapes(spec, 0), spec), row[7].get<bool>()) << row;
  }
}

Rectangle box_of(const nlohmann::json& row) { return {row[0], row[1], row[2], row[3]}; }

std::vector<Rectangle> boxes_of(const nlohmann::json& rows) {
  std::vector<Rectangle> boxes;
  for (const auto& row : rows) boxes.push_back(box_of(row));
  return boxes;
}

TEST(Golden, Regions) {
  ASSERT_GE(golden()["regions"].size(), 70u);
  for (const auto& row : golden()["regions"]) {
    const ModelSpec spec = parse_spec(golden()["specs"][row[0].get<std::string>()]);
    const Size size{row[1], row[2]}, picture = picture_px(size, spec);
    EXPECT_EQ((std::vector<int>{picture.height, picture.width}), row[3].get<std::vector<int>>()) << row;
    const std::vector<Rectangle> boxes = boxes_of(row[4]);
    for (const Rectangle& box : boxes) EXPECT_TRUE(lies_in(box, size)) << row;
    Digest digest;
    for (const View& view : plan_regions(boxes, size, spec)) {
      for (int value : view.box) digest.add(value);
      for (int value : view.inner.value_or(Box{})) digest.add(value);
      digest.add(view.resize_px);
    }
    EXPECT_EQ(digest.text(), row[5].get<std::string>()) << row;
  }
}

std::string pixels_of(Source& picture, const std::vector<View>& views) {
  Digest digest;
  for (const View& view : views)
    for (const std::uint8_t value : picture.square(view).values) digest.add(value);
  return digest.text();
}

TEST(Golden, PixelsOfRegions) {
  ASSERT_GE(golden()["pictures"].size(), 5u);
  for (const auto& row : golden()["pictures"]) {
    const ModelSpec spec = parse_spec(golden()["specs"][row[0].get<std::string>()]);
    const Pixels image = self_test_image(row[1], spec.crop_px);
    const Size size{image.height, image.width};
    Source picture(make_picture(image, spec), spec);
    EXPECT_EQ(Digest::of(picture.image().values), row[3].get<std::string>()) << row;
    EXPECT_EQ(pixels_of(picture, plan_regions(boxes_of(row[2]), size, spec)), row[4].get<std::string>()) << row;
    EXPECT_EQ(pixels_of(picture, plan_whole(size, spec)), row[5].get<std::string>()) << row;
  }
}

TEST(Golden, Proposals) {
  Map answer{1, 0, 5, {}};
  for (const auto& row : golden()["proposals"][0]) {
    for (const auto& value : row) answer.values.push_back(value.get<float>());
    ++answer.height;
  }
  const std::vector<Rectangle> found = found_boxes(answer, {300, 200}), expected = boxes_of(golden()["proposals"][1]);
  ASSERT_EQ(found.size(), expected.size());
  ASSERT_LT(found.size(), static_cast<std::size_t>(answer.height));
  for (std::size_t i = 0; i < found.size(); ++i) {
    EXPECT_EQ(found[i].xmin, expected[i].xmin);
    EXPECT_EQ(found[i].ymin, expected[i].ymin);
    EXPECT_EQ(found[i].xmax, expected[i].xmax);
    EXPECT_EQ(found[i].ymax, expected[i].ymax);
  }
}

TEST(Golden, Objects) {
  std::vector<float> posterior;
  for (const auto& row : golden()["objects"][0])
    for (const auto& value : row) posterior.push_back(value.get<float>());
  const std::vector<Rectangle> boxes = boxes_of(golden()["objects"][1]);
  const std::vector<Kept> found = find_objects(posterior, boxes, 4, golden()["objects"][2]);
  const auto& expected = golden()["objects"][3];
  ASSERT_EQ(found.size(), expected.size());
  ASSERT_GE(found.size(), 10u);
  for (std::size_t i = 0; i < found.size(); ++i) {
    EXPECT_EQ(found[i].label, expected[i][0].get<int>());
    EXPECT_EQ(found[i].score, expected[i][1].get<float>());
    EXPECT_EQ(boxes[found[i].region].xmin, expected[i][2][0].get<double>());
    EXPECT_EQ(boxes[found[i].region].ymax, expected[i][2][3].get<double>());
  }
}

TEST(Regions, BoxesOutsideTheImage) {  // as tests/infer/pixels/test_regions.py
  const double nan = std::nan(""), endless = HUGE_VAL;
  const Size size{20, 10};
  for (const Rectangle& box : {Rectangle{1, 1, 5, 5}, {-3, -3, 1, 1}, {-1e300, 1, 1e300, 2}})
    EXPECT_TRUE(lies_in(box, size));
  for (const Rectangle& box :
       {Rectangle{0, 0, 0, 0}, {11, 1, 12, 5}, {5, 5, 4, 9}, {nan, 1, 2, 2}, {1, 1, endless, 2}})
    EXPECT_FALSE(lies_in(box, size));
  const ModelSpec spec = parse_spec(golden()["specs"]["slim"]);
  EXPECT_EQ(plan_regions({{-1e300, 1, 1e300, 2}}, size, spec).size(), 1u);
  EXPECT_TRUE(plan_regions({}, size, spec).empty());
}

TEST(Detections, AnswersThatAreNoBoxes) {  // as tests/export/test_multibox.py
  const float nan = std::nanf("");
  const Map answer{1, 6, 5, {0.1f, 0.2f, 0.5f, 0.6f, 0.3f, -0.5f, 0.5f, 0.5f, 2.0f, 0.9f, 0.11f, 0.2f, 0.5f, 0.6f, 0.2f,
                             0.5f, 0.5f, 0.4f, 0.6f, 0.8f, nan, 0, 1, 1, 0.8f, 1.2f, 0.1f, 1.4f, 0.6f, 0.8f}};
  const std::vector<Rectangle> found = found_boxes(answer, {100, 200});
  ASSERT_EQ(found.size(), 2u);
  EXPECT_NEAR(found[0].xmin, 1, 1e-4);
  EXPECT_NEAR(found[0].ymax, 100, 1e-4);
  EXPECT_NEAR(found[1].xmin, 21, 1e-4);
  EXPECT_NEAR(found[1].ymax, 60, 1e-4);
}

template <typename Work>
std::string refused(ErrorCode code, Work&& work) {
  try {
    work();
  } catch (const Error& error) {
    EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(code)) << error.what();
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was refused";
  return "";
}

TEST(Spec, WhatIsNone) {
  const std::string good = golden()["specs"]["vgg"];
  EXPECT_EQ(parse_spec(good).crop_px, 224);
  for (const char* text : {"", "null", "[]", "{}", "{\"name\": 1}", "\xff\xfe", "{\"name\":"})
    refused(ErrorCode::unusable_engine, [&] { parse_spec(text); });
  for (const auto& [key, value] : std::vector<std::pair<std::string, nlohmann::json>>{
           {"crop_px", -1},
           {"crop_px", 1e18},
           {"crop_px", "224"},
           {"crop_px", 223},
           {"stride_px", 0},
           {"train_short_px", {1, 2, 3}},
           {"train_short_px", 64},
           {"train_short_px", nullptr},
           {"classes", {"a"}},
           {"classes", {"a", "a"}},
           {"classes", 7},
           {"class_names", {"a"}},
           {"name", ""},
           {"name", "a/b"},
           {"name", "two\nlines"},
           {"name", "tab\t"},
           {"name", std::string(201, 'a')},
           {"name", std::string("a\0b", 3)},
           {"net", "\x1b[2J"},
           {"classes", {"a", "b\x07"}},
           {"classes", {"a", "\xc2\x9b"}},
           {"classes", {"a", std::string(10'001, 'a')}},
           {"outputs", 5},
           {"source", {1}},
           {"source", {{"a", 1}}},
           {"unknown", 1},
           {"width", 1e300},
           {"width", 0},
           {"fc_width", 32.0},
           {"max_views", 1.5},
           {"crop_px", 224.0},
           {"crop_px", std::uint64_t{1} << 63},
           {"test_short_px", 2049},
           {"train_short_px", {256, 65537}},
           {"pool_rounding", "up"},
           {"preprocessing", {{"mean_rgb", {true, 2, 3}}}},
           {"preprocessing", {{"mean_rgb", {1e300, 2, 3}}}},
           {"preprocessing", {{"mean_rgb", {1, 2, 3}}, {"std_rgb", {1, 1e-7, 1}}}},
           {"preprocessing", {{"mean_rgb", {1, 2, 3}}, {"gamma", 2}}},
           {"interface", "other"},
           {"interface", "two\nlines"},
           {"precision", "int4"},
           {"preprocessing", {{"mean_rgb", {1, 2}}}},
           {"preprocessing", {{"mean_rgb", {1, 2, 3}}, {"std_rgb", {1, 0, 1}}}},
           {"preprocessing", {{"mean_rgb", {1, 2, 3}}, {"filter", "nearest"}}},
       }) {
    auto object = nlohmann::json::parse(good);
    object[key] = value;
    const std::string text = object.dump();
    refused(ErrorCode::unusable_engine, [&] { parse_spec(text); });
  }
}

TEST(Spec, MayNameTheImagesThatItWasTrainedOn) {
  auto object = nlohmann::json::parse(golden()["specs"]["vgg"].get<std::string>());
  object["source"]["trained_on"] = "8000000000000000 " + std::string(21'336, 'A');  // as infer/data/known_images.py
  EXPECT_EQ(parse_spec(object.dump()).crop_px, 224);
}

TEST(Spec, OutputsOfTheGraph) {
  const ModelSpec spec = parse_spec(golden()["specs"]["vgg"]);
  const auto classes = static_cast<std::int64_t>(spec.classes.size());
  check_output(spec, "m.onnx", "posterior", true, classes);
  check_output(spec, "m.onnx", "posterior", true, -1);
  check_output(spec, "m.onnx", "features", true, 4096);
  for (const std::int64_t found : {classes - 1, classes + 1, std::int64_t{1}})
    EXPECT_NE(refused(ErrorCode::unusable_engine, [&] { check_output(spec, "m.onnx", "posterior", true, found); })
                  .find("for the " + std::to_string(classes) + " classes of its spec"),
              std::string::npos);
  refused(ErrorCode::unusable_engine, [&] { check_output(spec, "m.onnx", "features", false, 4096); });
}

TEST(Plans, WhatCannotBe) {
  const ModelSpec spec = parse_spec(golden()["specs"]["vgg"]);
  const Size size{375, 500};
  EXPECT_NE(refused(ErrorCode::invalid_argument, [&] { plan_views(spec, "centre", size, {256}); })
                .find("expected one of center, ten-crop"),
            std::string::npos);
  for (const auto& scales : std::vector<std::vector<int>>{{}, {256, 256}, {223}, {-1}, {1 << 30}})
    refused(ErrorCode::invalid_argument, [&] { plan_views(spec, "dense", size, scales); });
  for (const std::string& protocol : protocols()) {  // a line of pixels: nothing overflows
    const auto plan = plan_views(spec, protocol, {1 << 20, 1}, {65536});
    EXPECT_NE(out_of_range(plan, {1 << 20, 1}, default_shapes(spec, 65536), spec), std::nullopt);
  }
  const auto plan = plan_views(spec, "dense", {100, 2000}, {512});
  EXPECT_NE(out_of_range(plan, {100, 2000}, default_shapes(spec, 0), spec)->find("use protocol multicrop"),
            std::string::npos);
}

#ifdef VERYDEEP_DECODE
TEST(Decode, WhatIsNoImage) {
  const std::string png = "\x89PNG\r\n\x1a\n";
  for (const std::string& data : {std::string("hello"), std::string("\xff\xd8\xff"), std::string("\xff\xd8\xff\xe0"),
                                  png, png + std::string(30, '\0')})
    refused(ErrorCode::unreadable_image, [&] { decode(data.data(), data.size()); });
  EXPECT_EQ(refused(ErrorCode::unreadable_image, [] { decode("", 0); }), "image: is empty (0 bytes)");
  refused(ErrorCode::invalid_argument, [] { decode(nullptr, 3); });
  EXPECT_EQ(refused(ErrorCode::unreadable_image, [] { decode_file("/none.jpg"); }).find("/none.jpg: cannot be read"),
            0u);
}
#endif

// Files that are no files: nothing waits for what a pipe will say, or reads a device to its end.
TEST(Open, WhatIsNoFile) {
  const std::string folder = ::testing::TempDir() + "no_file_" + std::to_string(getpid());
  std::filesystem::create_directory(folder);
  for (const std::string name : {"/pipe.onnx", "/pipe.engine", "/pipe.jpg", "/other.onnx.data"})
    ASSERT_EQ(mkfifo((folder + name).c_str(), 0600), 0);
  std::ofstream(folder + "/other.onnx") << "x";
  for (const std::string name : {"/pipe.onnx", "/pipe.engine"})
    EXPECT_EQ(refused(ErrorCode::unusable_engine, [&] { Classifier(folder + name); }),
              folder + name + ": cannot be read (is a pipe, not a file)");
  EXPECT_EQ(refused(ErrorCode::unusable_engine, [&] { Classifier(folder + "/other.onnx"); }),
            folder + "/other.onnx.data: cannot be read (is a pipe, not a file)");
  EXPECT_EQ(refused(ErrorCode::unreadable_image, [&] { decode_file(folder + "/pipe.jpg"); }),
            folder + "/pipe.jpg: cannot be read (is a pipe, not a file)");
  EXPECT_EQ(refused(ErrorCode::unreadable_image, [&] { decode_file(folder); }),
            folder + ": cannot be read (is a folder, not a file)");
  EXPECT_EQ(refused(ErrorCode::unreadable_image, [&] { decode_file("/dev/zero"); }),
            "/dev/zero: cannot be read (is a device, not a file)");
  EXPECT_EQ(refused(ErrorCode::invalid_argument, [&] { read_file(GOLDEN, 10, ErrorCode::invalid_argument); })
                .find(GOLDEN + std::string(": ")),
            0u);
  std::filesystem::remove_all(folder);
}

TEST(Open, WhatIsNoEngine) {
  EXPECT_NE(refused(ErrorCode::unusable_engine, [] { Classifier("/none.onnx"); }).find("no such file"),
            std::string::npos);
  refused(ErrorCode::unusable_engine, [] { Classifier(GOLDEN); });
}

// With an engine in VERYDEEP_ENGINE (make cpp gives a slim net).
class WithEngine : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* path = std::getenv("VERYDEEP_ENGINE");
    if (!path) GTEST_SKIP() << "VERYDEEP_ENGINE names no engine";
    path_ = path;
  }
  std::string path_;
};

TEST_F(WithEngine, OrderAndStrideChangeNothing) {
  Classifier classifier(path_, Options{"dense", {}, 0, false, 1, true});
  const Pixels image = self_test_image(3, 80);
  const auto expected = classifier.posterior({image.values.data(), image.height, image.width, 3 * image.width});
  EXPECT_NEAR(std::accumulate(expected.begin(), expected.end(), 0.0), 1.0, 1e-6);
  const std::ptrdiff_t stride = 3 * image.width + 17;
  std::vector<std::uint8_t> padded(static_cast<std::size_t>(stride) * image.height, 99);
  for (int y = 0; y < image.height; ++y)
    for (int x = 0; x < image.width; ++x)
      for (int c = 0; c < 3; ++c) padded[y * stride + 3 * x + c] = image.at(y, x)[2 - c];
  EXPECT_EQ(classifier.posterior({padded.data(), image.height, image.width, stride, Order::bgr}), expected);
}

TEST_F(WithEngine, ImagesThatCannotBe) {
  Classifier classifier(path_);
  const std::vector<std::uint8_t> pixels(300, 0);
  refused(ErrorCode::invalid_argument, [&] { classifier.classify({nullptr, 10, 10, 30}); });
  refused(ErrorCode::invalid_argument, [&] { classifier.classify({pixels.data(), 0, 10, 30}); });
  refused(ErrorCode::invalid_argument, [&] { classifier.classify({pixels.data(), 10, -1, 30}); });
  refused(ErrorCode::invalid_argument, [&] { classifier.classify({pixels.data(), 10, 10, 29}); });
  refused(ErrorCode::invalid_argument, [&] { classifier.classify({pixels.data(), 2147483647, 2147483647, 30}); });
  refused(ErrorCode::invalid_argument, [&] { classifier.classify({pixels.data(), 10, 10, 30}, 0); });
  refused(ErrorCode::out_of_range, [&] { classifier.classify({pixels.data(), 7, 10, 30}); });
  EXPECT_EQ(classifier.classify({pixels.data(), 10, 10, 30}, 3).size(), 3u);  // it stays usable
}

TEST_F(WithEngine, AClassifierIsNoNetOfRegions) {
  EXPECT_NE(refused(ErrorCode::unusable_engine, [&] { Detector(path_, ""); }).find("expected 'background'"),
            std::string::npos);
  Options dense;
  dense.protocol = "dense";
  refused(ErrorCode::invalid_argument, [&] { Detector(path_, "", dense); });
}

TEST_F(WithEngine, ThreadsWithTheirOwnAndThreadsThatShare) {
  const Pixels image = self_test_image(1, 80);
  const Image view{image.values.data(), image.height, image.width, 3 * image.width};
  Options options;
  options.threads = 1;
  Classifier shared(path_, options);
  const auto expected = shared.posterior(view);
  std::vector<std::thread> threads;
  std::vector<int> wrong(4, 0);
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      Classifier own(path_, options);
      for (int i = 0; i < 20; ++i) wrong[t] += (t % 2 ? own : shared).posterior(view) != expected;
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4, 0));
}

long resident_kib() {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);)
    if (line.rfind("VmRSS:", 0) == 0) return std::atol(line.c_str() + 6);
  return 0;
}

TEST_F(WithEngine, CallsLeakNothing) {
  const char* asked = std::getenv("VERYDEEP_CALLS");
  const int calls = asked ? std::atoi(asked) : 1000;
  Options options;
  options.threads = 1;
  Classifier classifier(path_, options);
  const Pixels image = self_test_image(2, 40);
  const Image view{image.values.data(), image.height, image.width, 3 * image.width};
  for (int i = 0; i < std::min(calls, 1000); ++i) classifier.classify(view);
  const long before = resident_kib();
  for (int i = 0; i < calls; ++i) classifier.classify(view);
#ifdef __SANITIZE_ADDRESS__  // which keeps what is freed for a while, and looks for leaks itself
  (void)before;
#else
  EXPECT_LE(resident_kib() - before, 2048) << calls << " calls";
#endif
}

}  // namespace
}  // namespace verydeep
