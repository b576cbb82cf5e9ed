#include <exception>
#include <new>
#include <string>

#include "verydeep/verydeep.h"
#include "verydeep/verydeep.hpp"

struct vd_classifier {
  verydeep::Classifier classifier;
  std::vector<std::string> names;  // of the classes, which predictions point to
};

namespace {

thread_local std::string last_error;

// Runs `work`; nothing is ever thrown into C.
template <typename Work>
vd_status guarded(Work&& work) noexcept {
  try {
    work();
    return VD_OK;
  } catch (const verydeep::Error& error) {
    try {
      last_error = error.what();
    } catch (...) {
    }
    return static_cast<vd_status>(error.code());
  } catch (const std::bad_alloc&) {
    try {
      last_error = "out of memory";
    } catch (...) {
    }
    return VD_OUT_OF_MEMORY;
  } catch (const std::exception& error) {
    try {
      last_error = error.what();
    } catch (...) {
    }
    return VD_RUNTIME_FAILURE;
  } catch (...) {  // whatever a runtime throws
    try {
      last_error = "a failure that does not say what it is";
    } catch (...) {
    }
    return VD_RUNTIME_FAILURE;
  }
}

// What `ask` finds of a classifier; nothing of this type where it fails or there is no classifier.
template <typename Ask>
auto found(const vd_classifier* classifier, Ask&& ask) noexcept -> decltype(ask(*classifier)) {
  if (!classifier) return {};
  decltype(ask(*classifier)) answer{};
  guarded([&] { answer = ask(*classifier); });
  return answer;
}

void require(bool true_, const char* message) {
  if (!true_) throw verydeep::Error(verydeep::ErrorCode::invalid_argument, message);
}

void give(const vd_classifier& from, const std::vector<verydeep::Prediction>& found, vd_prediction* best,
          size_t* count) {
  for (size_t i = 0; i < found.size(); ++i) {
    const auto index = static_cast<size_t>(found[i].index);
    best[i] = {found[i].index, from.classifier.classes()[index].c_str(), from.names[index].c_str(),
               found[i].probability};
  }
  *count = found.size();
}

int room(const size_t* count) { return static_cast<int>(*count < 1000000 ? *count : 1000000); }

}  // namespace

vd_status vd_open(const char* engine_path, const vd_options* options, vd_classifier** classifier) {
  return guarded([&] {
    require(engine_path && classifier, "vd_open: null engine_path or classifier");
    verydeep::Options chosen;
    if (options) {
      if (options->protocol) chosen.protocol = options->protocol;
      if (options->scales) chosen.scales.assign(options->scales, options->scales + options->scale_count);
      chosen.device = options->device;
      chosen.cuda = options->cuda != 0;
      chosen.threads = options->threads;
      chosen.self_test = options->self_test != 0;
    }
    auto made = std::make_unique<vd_classifier>(vd_classifier{verydeep::Classifier(engine_path, chosen), {}});
    made->names = made->classifier.class_names();
    *classifier = made.release();
  });
}

void vd_close(vd_classifier* classifier) {
  guarded([&] { delete classifier; });
}

vd_status vd_classify(vd_classifier* classifier, const uint8_t* pixels, int height, int width, ptrdiff_t row_stride,
                      int order, vd_prediction* best, size_t* count) {
  return guarded([&] {
    require(classifier && best && count, "vd_classify: null classifier, best or count");
    require(order == VD_RGB || order == VD_BGR, "vd_classify: order is neither VD_RGB nor VD_BGR");
    const auto in = order == VD_BGR ? verydeep::Order::bgr : verydeep::Order::rgb;
    give(*classifier, classifier->classifier.classify({pixels, height, width, row_stride, in}, room(count)), best,
         count);
  });
}

vd_status vd_classify_file(vd_classifier* classifier, const char* path, vd_prediction* best, size_t* count) {
  return guarded([&] {
    require(classifier && path && best && count, "vd_classify_file: null classifier, path, best or count");
    give(*classifier, classifier->classifier.classify_file(path, room(count)), best, count);
  });
}

vd_status vd_posterior(vd_classifier* classifier, const uint8_t* pixels, int height, int width, ptrdiff_t row_stride,
                       int order, double* posterior, size_t class_count) {
  return guarded([&] {
    require(classifier && posterior, "vd_posterior: null classifier or posterior");
    require(order == VD_RGB || order == VD_BGR, "vd_posterior: order is neither VD_RGB nor VD_BGR");
    require(class_count == classifier->classifier.classes().size(),
            "vd_posterior: class_count is not the model's, see vd_class_count");
    const auto in = order == VD_BGR ? verydeep::Order::bgr : verydeep::Order::rgb;
    const auto found = classifier->classifier.posterior({pixels, height, width, row_stride, in});
    for (size_t i = 0; i < found.size(); ++i) posterior[i] = found[i];
  });
}

size_t vd_class_count(const vd_classifier* classifier) {
  return found(classifier, [](const vd_classifier& own) { return own.classifier.classes().size(); });
}

const char* vd_class(const vd_classifier* classifier, size_t index) {
  return found(classifier, [&](const vd_classifier& own) {
    const auto& classes = own.classifier.classes();
    return index < classes.size() ? classes[index].c_str() : nullptr;
  });
}

const char* vd_model(const vd_classifier* classifier) {
  return found(classifier, [](const vd_classifier& own) { return own.classifier.model().c_str(); });
}

const char* vd_arithmetic(const vd_classifier* classifier) {
  return found(classifier, [](const vd_classifier& own) { return own.classifier.arithmetic().c_str(); });
}

const char* vd_last_error(void) { return last_error.c_str(); }

const char* vd_version(void) { return verydeep::version(); }
