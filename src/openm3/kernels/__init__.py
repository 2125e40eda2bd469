"""Operations on paged caches, one folder each: contract and dispatch, reference, fast paths."""
