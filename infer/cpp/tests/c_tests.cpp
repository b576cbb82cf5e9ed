// The C interface: codes and texts for whatever is passed, and nothing thrown.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "verydeep/verydeep.h"

namespace {

TEST(C, NullPointers) {
  vd_classifier* classifier = nullptr;
  vd_prediction best[2];
  size_t count = 2;
  double posterior = 0;
  EXPECT_EQ(vd_open(nullptr, nullptr, &classifier), VD_INVALID_ARGUMENT);
  EXPECT_EQ(vd_open("x.onnx", nullptr, nullptr), VD_INVALID_ARGUMENT);
  EXPECT_STREQ(vd_last_error(), "vd_open: null engine_path or classifier");
  EXPECT_EQ(vd_open("/none.onnx", nullptr, &classifier), VD_UNUSABLE_ENGINE);
  EXPECT_NE(std::strstr(vd_last_error(), "no such file"), nullptr);
  EXPECT_EQ(classifier, nullptr);
  EXPECT_EQ(vd_classify(nullptr, nullptr, 1, 1, 3, VD_RGB, best, &count), VD_INVALID_ARGUMENT);
  EXPECT_EQ(vd_classify_file(nullptr, "x.jpg", best, &count), VD_INVALID_ARGUMENT);
  EXPECT_EQ(vd_posterior(nullptr, nullptr, 1, 1, 3, VD_RGB, &posterior, 1), VD_INVALID_ARGUMENT);
  EXPECT_EQ(vd_class_count(nullptr), 0u);
  EXPECT_EQ(vd_class(nullptr, 0), nullptr);
  EXPECT_EQ(vd_model(nullptr), nullptr);
  EXPECT_EQ(vd_arithmetic(nullptr), nullptr);
  vd_close(nullptr);
  EXPECT_EQ(count, 2u);
  EXPECT_STREQ(vd_version(), VERYDEEP_VERSION);
}

TEST(C, AClassifier) {
  const char* path = std::getenv("VERYDEEP_ENGINE");
  if (!path) GTEST_SKIP() << "VERYDEEP_ENGINE names no engine";
  vd_classifier* classifier = nullptr;
  const int below[] = {1};
  vd_options options{};
  options.protocol = "dense";
  options.scales = below;
  options.scale_count = 1;
  EXPECT_EQ(vd_open(path, &options, &classifier), VD_INVALID_ARGUMENT);
  options.scales = nullptr;
  options.self_test = 1;
  ASSERT_EQ(vd_open(path, &options, &classifier), VD_OK) << vd_last_error();
  const std::vector<uint8_t> pixels(3 * 90 * 100, 77);
  const size_t classes = vd_class_count(classifier);
  std::vector<double> posterior(classes);
  ASSERT_EQ(vd_posterior(classifier, pixels.data(), 90, 100, 300, VD_RGB, posterior.data(), classes), VD_OK);
  std::vector<vd_prediction> best(classes + 5);
  size_t count = best.size();
  ASSERT_EQ(vd_classify(classifier, pixels.data(), 90, 100, 300, VD_BGR, best.data(), &count), VD_OK);
  ASSERT_EQ(count, classes);
  for (size_t i = 0; i < count; ++i) {
    EXPECT_STREQ(best[i].wnid, vd_class(classifier, static_cast<size_t>(best[i].index)));
    EXPECT_NEAR(best[i].probability, posterior[static_cast<size_t>(best[i].index)], 1e-12);  // grey: BGR is RGB
    if (i) {
      EXPECT_LE(best[i].probability, best[i - 1].probability);
    }
  }
  EXPECT_EQ(vd_posterior(classifier, pixels.data(), 90, 100, 300, VD_RGB, posterior.data(), 3), VD_INVALID_ARGUMENT);
  EXPECT_EQ(vd_classify(classifier, pixels.data(), 90, 100, 299, VD_RGB, best.data(), &count), VD_INVALID_ARGUMENT);
  EXPECT_EQ(vd_classify(classifier, pixels.data(), 90, 100, 300, 7, best.data(), &count),
            VD_INVALID_ARGUMENT);
  EXPECT_EQ(vd_classify_file(classifier, "/none.jpg", best.data(), &count), VD_UNREADABLE_IMAGE);
  EXPECT_EQ(vd_class(classifier, classes), nullptr);
  vd_close(classifier);
}

}  // namespace
