// Copies of what has strides, and elements chosen by their numbers.

// [to, from, bytes an element, axes, sizes ..., strides of to ..., strides of from ...]; strides in elements.
static int64_t run_copy(operands given) {
    char *to = PLACE(char, 0);
    const char *from = PLACE(char, 1);
    const int64_t bytes = NUMBER(2), axes = NUMBER(3), outer = axes ? axes - 1 : 0;
    const int64_t *sizes = given.word + 4, *strides = sizes + axes;
    const int64_t length = axes ? sizes[axes - 1] : 1;
    const int64_t step = axes ? strides[axes - 1] : 1, stride = axes ? strides[2 * axes - 1] : 1;
    odometer at = odometer_over(outer, sizes);
    int64_t offsets[2] = {0, 0};
    do {
        char *y = to + offsets[0] * bytes;
        const char *x = from + offsets[1] * bytes;
        if (step == 1 && stride == 1) {
            memcpy(y, x, (size_t)(length * bytes));
        } else {
#define MOVE(type)                                                                                                \
    for (int64_t i = 0; i < length; i++) ((type *)y)[i * step] = ((const type *)x)[i * stride];                   \
    break
            switch (bytes) {
                case 1: MOVE(uint8_t);
                case 2: MOVE(uint16_t);
                case 4: MOVE(uint32_t);
                default: MOVE(uint64_t);
            }
#undef MOVE
        }
    } while (turned(&at, offsets, strides, 2, axes));
    return 0;
}

static inline int64_t index_at(const void *indices, int64_t type, int64_t i) {
    return type == INT64 ? ((const int64_t *)indices)[i] : ((const int32_t *)indices)[i];
}

// [to, data, indices, type of indices, outer, size of the axis, bytes of a slice, indices' count]
static int64_t run_gather(operands given) {
    char *to = PLACE(char, 0);
    const char *data = PLACE(char, 1);
    const void *indices = PLACE(void, 2);
    const int64_t type = NUMBER(3), outer = NUMBER(4), size = NUMBER(5), bytes = NUMBER(6), count = NUMBER(7);
    if (bytes == 4 && type == INT64) {  // single elements: too short for calls that copy
        const uint32_t *from = (const uint32_t *)data;
        uint32_t *y = (uint32_t *)to;
        for (int64_t o = 0; o < outer; o++, from += size, y += count) {
            for (int64_t i = 0; i < count; i++) {
                const int64_t index = ((const int64_t *)indices)[i], chosen = index + (index < 0 ? size : 0);
                if (chosen < 0 || chosen >= size) return OUT_OF_RANGE;
                y[i] = from[chosen];
            }
        }
        return 0;
    }
    for (int64_t o = 0; o < outer; o++, data += size * bytes) {
        for (int64_t i = 0; i < count; i++, to += bytes) {
            int64_t index = index_at(indices, type, i);
            index += index < 0 ? size : 0;
            if (index < 0 || index >= size) return OUT_OF_RANGE;
            memcpy(to, data + index * bytes, (size_t)bytes);
        }
    }
    return 0;
}

// The elements of `chosen` whose number along one axis `indices` hold, and those of `all` at the same places; the other axes are
// theirs together. An index that is the same all along the innermost axis (its stride there is 0) is looked at once.
#define ELEMENTS(move)                                                                                            \
    do {                                                                                                          \
        const int64_t *index = indices + offsets[1];                                                              \
        int64_t number = 0;                                                                                       \
        for (int64_t i = 0, looked = step ? length : 1; i < looked; i++) {                                        \
            number = index[i * step] + (index[i * step] < 0 ? size : 0);                                          \
            if (number < 0 || number >= size) return OUT_OF_RANGE;                                                \
            if (step) move;                                                                                       \
        }                                                                                                         \
        if (!step) for (int64_t i = 0; i < length; i++) move;                                                     \
    } while (turned(&at, offsets, strides, 3, axes))

#define ONE_OF_ALL (offsets[0] + i * step_all)
#define ONE_CHOSEN (offsets[2] + i * step_chosen + number * along)

// [all, chosen, indices, bytes an element, size of the axis, stride of chosen along it, axes, sizes ..., strides of all ..., of
// indices ..., of chosen ...]; the stride of chosen along the axis itself is 0 in its list.
static inline int64_t run_elements(operands given, int scatters) {
    char *all = PLACE(char, 0), *chosen = PLACE(char, 1);
    const int64_t *indices = PLACE(int64_t, 2);
    const int64_t bytes = NUMBER(3), size = NUMBER(4), along = NUMBER(5), axes = NUMBER(6);
    const int64_t *sizes = given.word + 7, *strides = sizes + axes;
    const int64_t length = sizes[axes - 1], step_all = strides[axes - 1], step = strides[2 * axes - 1];
    const int64_t step_chosen = strides[3 * axes - 1];
    odometer at = odometer_over(axes - 1, sizes);
    int64_t offsets[3] = {0, 0, 0};
    if (bytes == 4 && scatters) ELEMENTS(((uint32_t *)chosen)[ONE_CHOSEN] = ((uint32_t *)all)[ONE_OF_ALL]);
    else if (bytes == 4) ELEMENTS(((uint32_t *)all)[ONE_OF_ALL] = ((uint32_t *)chosen)[ONE_CHOSEN]);
    else if (scatters) ELEMENTS(memcpy(chosen + ONE_CHOSEN * bytes, all + ONE_OF_ALL * bytes, (size_t)bytes));
    else ELEMENTS(memcpy(all + ONE_OF_ALL * bytes, chosen + ONE_CHOSEN * bytes, (size_t)bytes));
    return 0;
}

static int64_t run_gather_elements(operands given) { return run_elements(given, 0); }
static int64_t run_scatter_elements(operands given) { return run_elements(given, 1); }
