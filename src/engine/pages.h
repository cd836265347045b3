// The page pool: reference-counted pages of 32 KV slots. free + referenced = total after every
// tick.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "tensor/kv.h"
#include "tensor/matrix.h"

namespace tutti::engine {

using PageId = int32_t;

class PagePool {
 public:
  // `pages` pages of `layout`; memory is touched when a page is first used. Throws Error(kUsage |
  // kLimit).
  PagePool(const tensor::KvLayout& layout, int pages);
  ~PagePool();
  PagePool(const PagePool&) = delete;
  PagePool& operator=(const PagePool&) = delete;

  const tensor::KvLayout& layout() const { return layout_; }
  int total() const { return int(references_.size()); }
  int free() const { return int(free_.size()); }
  int referenced() const { return total() - free(); }

  // A page with one reference, or -1 when none is free.
  PageId allocate();
  void add_reference(PageId page) { ++references_[size_t(page)]; }
  // Returns the page to the free list when this was the last reference.
  void drop_reference(PageId page);
  int references(PageId page) const { return references_[size_t(page)]; }

  std::byte* memory(PageId page) const { return pointers_[size_t(page)]; }
  std::byte* const* pointers() const { return pointers_.data(); }

  // Copies one slot's keys and values, all layers and heads, bit for bit.
  void copy_slot(PageId from, int from_slot, PageId to, int to_slot);
  void copy_page(PageId from, PageId to);

 private:
  tensor::KvLayout layout_;
  std::byte* base_ = nullptr;
  size_t bytes_ = 0;
  std::vector<std::byte*> pointers_;
  std::vector<int32_t> references_;
  std::vector<PageId> free_;
};

// One counted reference to a page.
class PageRef {
 public:
  PageRef() = default;
  // Takes over a reference that the caller holds.
  static PageRef adopt(PagePool& pool, PageId page) { return PageRef(&pool, page); }
  PageRef(const PageRef& other) : pool_(other.pool_), page_(other.page_) {
    if (pool_) pool_->add_reference(page_);
  }
  PageRef(PageRef&& other) noexcept
      : pool_(std::exchange(other.pool_, nullptr)), page_(other.page_) {}
  PageRef& operator=(PageRef other) noexcept {
    std::swap(pool_, other.pool_);
    std::swap(page_, other.page_);
    return *this;
  }
  ~PageRef() {
    if (pool_) pool_->drop_reference(page_);
  }
  PageId id() const { return page_; }
  explicit operator bool() const { return pool_ != nullptr; }
  bool shared() const { return pool_->references(page_) > 1; }
  int references() const { return pool_->references(page_); }

 private:
  PageRef(PagePool* pool, PageId page) : pool_(pool), page_(page) {}
  PagePool* pool_ = nullptr;
  PageId page_ = -1;
};

}  // namespace tutti::engine
