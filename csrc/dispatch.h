// The one place that chooses how products are computed.
#pragma once

#include <tail.h>

namespace fused_resnet {

template <class Element>
struct HalfProducts;
struct Tf32Products;
struct Float32Products;
struct BFloat16;
struct Float16;

template <class Type>
struct TypeTag {
  using type = Type;
};

// Calls `launch(TypeTag<Products>())`.
template <class Launch>
void with_products(Math math, Launch launch) {
  switch (math) {
    case Math::float32:
      return launch(TypeTag<Float32Products>());
    case Math::tf32:
      return launch(TypeTag<Tf32Products>());
    case Math::bfloat16:
      return launch(TypeTag<HalfProducts<BFloat16>>());
    case Math::float16:
      return launch(TypeTag<HalfProducts<Float16>>());
  }
}

}  // namespace fused_resnet
