// The C function that runs a twin.
#include "twins.h"

#include "host.h"

namespace kernels {

ENTRY run_twin(const char* name, int faulty, int cooperative, const float* input, float* output, float* workspace) {
  constexpr std::size_t bytes = twin_count * sizeof(float);
  return error_of([&] {
    const Twins& twins = all_twins().at(name);
    fused_resnet::device::launch(faulty != 0 ? twins.faulty : twins.correct,
                                 {name, twin_threads, twin_shared_bytes, twin_blocks, cooperative != 0},
                                 Twin{input, output, workspace},
                                 {{"input", offsetof(Twin, input), input, bytes, Access::read},
                                  {"output", offsetof(Twin, output), output, bytes, Access::write},
                                  {"workspace", offsetof(Twin, workspace), workspace, bytes, Access::write}},
                                 nullptr);
  });
}

}  // namespace kernels
