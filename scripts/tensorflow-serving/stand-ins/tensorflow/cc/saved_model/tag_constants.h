// Stands in for a header that TensorFlow's wheel lacks: the tag of the graph that is served, as SavedModel defines it.
#pragma once

namespace tensorflow {
inline constexpr char kSavedModelTagServe[] = "serve";
}
