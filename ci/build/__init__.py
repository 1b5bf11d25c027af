"""What images are made from, beside the Dagger steps themselves: those are in `pipelines/images`.

    base_image.py    Debian as a layer, by mmdebstrap, to the digest
    source.py        the commit that is built, from git
    testreports.py   what a test stage said: JUnit and coverage

It may call the tools and what is below.
"""
