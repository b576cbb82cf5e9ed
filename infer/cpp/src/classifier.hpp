// What a Classifier holds; Localizer and Detector share it.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "backend.hpp"
#include "verydeep/verydeep.hpp"

namespace verydeep {

// Raises Error (invalid_argument) for what is no image.
Pixels copy_of(const Image& image);
Prediction prediction(const ModelSpec& spec, int index, double probability);

struct Classifier::Impl {
  std::unique_ptr<Backend> backend;
  Options options;
  std::vector<int> scales;
  std::mutex busy;

  std::vector<double> posterior(Pixels pixels);
  std::vector<Prediction> best(const std::vector<double>& mean, int top) const;
};

}  // namespace verydeep
