//! Who is here, by chitchat.
