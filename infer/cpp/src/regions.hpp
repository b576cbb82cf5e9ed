// Regions of an image as views (infer/pixels/regions.py): the same integers and, of a picture, the same pixels.
#pragma once

#include <vector>

#include "taps.hpp"
#include "verydeep/verydeep.hpp"
#include "views.hpp"

namespace verydeep {

// Size of the picture that regions of an image are cut from, without its frame of one pixel on the right and below.
Size picture_px(Size image, const ModelSpec& spec);
// The image rescaled to that, with the frame of the mean.
Pixels make_picture(const Pixels& image, const ModelSpec& spec);

// Whether a box has a part in the image, and is a box at all.
bool lies_in(const Rectangle& box, Size image);
// A view of each box of an image, in its picture. Raises Error (invalid_argument) for a box that does not lie in it.
std::vector<View> plan_regions(const std::vector<Rectangle>& boxes, Size image, const ModelSpec& spec);
// The one view of a MultiBox net: the whole picture, warped to the crop.
std::vector<View> plan_whole(Size image, const ModelSpec& spec);

}  // namespace verydeep
