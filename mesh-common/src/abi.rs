//! How a type earns the right to cross the kernel boundary.

/// Declares a map key or value whose bytes mean the same on both sides of the kernel boundary.
///
/// The number in brackets is the size in bytes. It is written down so that a change of layout is a
/// change of source, and the build fails if the fields do not add up to it, which would be padding.
macro_rules! abi {
    (
        $(#[$meta:meta])*
        pub struct $name:ident[$size:literal] {
            $( $(#[$fmeta:meta])* pub $field:ident: $ty:ty, )+
        }
    ) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name {
            $( $(#[$fmeta])* pub $field: $ty, )+
        }

        const _: () = {
            assert!(size_of::<$name>() == $size, "layout changed: bump ABI_VERSION");
            assert!(0 $( + size_of::<$ty>() )+ == $size, "implicit padding: add a pad field");
        };

        // SAFETY: `repr(C)`, no padding (asserted above) and every field is `Pod` (asserted
        // below), so all bytes are initialised and every bit pattern is a value.
        #[cfg(feature = "user")]
        #[expect(unsafe_code, reason = "the one place a type is declared safe to copy to a map")]
        unsafe impl aya::Pod for $name {}

        #[cfg(feature = "user")]
        const _: () = {
            const fn field<T: aya::Pod>() {}
            $( field::<$ty>(); )+
        };
    };
}
