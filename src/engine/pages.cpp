#include "engine/pages.h"

#include <sys/mman.h>

#include <cstring>
#include <string>

#include "base/error.h"

namespace tutti::engine {

PagePool::PagePool(const tensor::KvLayout& layout, int pages) : layout_(layout) {
  if (pages < 1) {
    throw Error(ErrorKind::kUsage,
                "page pool: " + std::to_string(pages) + " pages; at least 1 is needed");
  }
  const size_t page_bytes = (layout.page_bytes() + 63) / 64 * 64;
  bytes_ = page_bytes * size_t(pages);
  void* memory = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    throw Error(ErrorKind::kLimit, "page pool: cannot reserve " + std::to_string(bytes_ >> 20) +
                                       " MiB for " + std::to_string(pages) +
                                       " pages of keys and values; lower the KV budget");
  }
  base_ = static_cast<std::byte*>(memory);
  references_.assign(size_t(pages), 0);
  pointers_.resize(size_t(pages));
  free_.resize(size_t(pages));
  for (int i = 0; i < pages; ++i) {
    pointers_[size_t(i)] = base_ + size_t(i) * page_bytes;
    free_[size_t(i)] = pages - 1 - i;
  }
}

PagePool::~PagePool() { ::munmap(base_, bytes_); }

PageId PagePool::allocate() {
  if (free_.empty()) return -1;
  const PageId page = free_.back();
  free_.pop_back();
  references_[size_t(page)] = 1;
  return page;
}

void PagePool::drop_reference(PageId page) {
  if (--references_[size_t(page)] == 0) free_.push_back(page);
}

void PagePool::copy_slot(PageId from, int from_slot, PageId to, int to_slot) {
  const size_t element = layout_.element_bytes();
  const size_t row = size_t(layout_.head_dim) * element;
  const bool scaled = layout_.type == tensor::KvType::kI8;
  for (int layer = 0; layer < layout_.layers; ++layer) {
    for (int head = 0; head < layout_.heads; ++head) {
      const std::byte* source = memory(from) + layout_.offset(layer, head);
      std::byte* target = memory(to) + layout_.offset(layer, head);
      for (int d = 0; d < layout_.head_dim; ++d) {
        const size_t line = size_t(d) * tensor::kPageSlots;
        std::memcpy(target + (line + size_t(to_slot)) * element,
                    source + (line + size_t(from_slot)) * element, element);
      }
      const size_t v = layout_.block_bytes();
      std::memcpy(target + v + size_t(to_slot) * row, source + v + size_t(from_slot) * row, row);
      if (!scaled) continue;
      const size_t scales = size_t(layout_.head_dim) * tensor::kPageSlots * element;
      for (const size_t block : {size_t(0), v}) {
        std::memcpy(target + block + scales + size_t(to_slot) * 4,
                    source + block + scales + size_t(from_slot) * 4, 4);
      }
    }
  }
}

void PagePool::copy_page(PageId from, PageId to) {
  std::memcpy(memory(to), memory(from), layout_.page_bytes());
}

}  // namespace tutti::engine
