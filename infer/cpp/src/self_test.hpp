// The self-test that travels with a model (infer/self_test.py): sixteen images of integer arithmetic.
#pragma once

#include "backend.hpp"

namespace verydeep {

Pixels self_test_image(int number, int crop_px);
// Raises Error (unusable_engine) where this machine sees other pixels or gives other posteriors than the model says.
void check_self_test(Backend& backend);

}  // namespace verydeep
