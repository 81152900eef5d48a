#include <engine/mapping.h>

#include <sys/mman.h>

#include <new>

namespace fused_resnet::emulator {

Mapping::Mapping(std::size_t bytes) : bytes_(bytes) {
  void* first = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (first == MAP_FAILED) throw std::bad_alloc();
  first_ = static_cast<char*>(first);
  madvise(first_, bytes, MADV_NOHUGEPAGE);  // one touched byte must not take up 2 MiB
}

Mapping::~Mapping() {
  if (first_ != nullptr) munmap(first_, bytes_);
}

void Mapping::reserve(std::size_t bytes) {
  if (bytes <= bytes_) return;
  std::size_t rounded = page_bytes;
  while (rounded < bytes) rounded *= 2;
  *this = Mapping();  // gives the old memory back before the new one is asked for
  *this = Mapping(rounded);
}

void Mapping::forbid_first_page() { mprotect(first_, page_bytes, PROT_NONE); }

}  // namespace fused_resnet::emulator
